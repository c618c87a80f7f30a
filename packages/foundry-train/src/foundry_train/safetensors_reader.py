"""Load a safetensors file and prove it in one pass: every byte is read once, into its place, while its SHA-256 grows.

The header has been checked before anything is allocated (see `foundry_model.safetensors_header`). The data go straight
into the waiting tensors: no memory map that a truncated file could kill the process with, no second copy, and no second
reading for the checksum.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from foundry_config.errors import CheckpointError, ResumeMismatchError
from foundry_model.safetensors_header import TensorEntry, read_safetensors_header

_PIECE = 2**21  # bytes read, then hashed: stays in the cache between the two


class Loaded(NamedTuple):
    """A file that was read whole."""

    tensors: dict[str, torch.Tensor]
    sha256: str
    """Of the whole file, 64 hexadecimal digits."""


def load_new(path: Path) -> Loaded:
    """Load all tensors of a file into new memory on the CPU.

    Raises:
        CheckpointError: Not a valid safetensors file.
        OSError: It cannot be read.
    """
    entries = read_safetensors_header(path)
    return _fill(path, entries, {name: torch.empty(entry.shape, dtype=entry.dtype) for name, entry in entries.items()})


def load_into(path: Path, targets: Mapping[str, torch.Tensor]) -> Loaded:
    """Load a file into existing tensors, on any device; the caller checks that none is left out.

    Raises:
        CheckpointError: Not a valid safetensors file.
        ResumeMismatchError: One of its tensors has no target of the same shape and type; nothing was changed.
        OSError: It cannot be read.
    """
    entries = read_safetensors_header(path)
    check_targets(path, entries, targets)
    return _fill(path, entries, {name: targets[name] for name in entries})


def check_targets(path: Path, entries: Mapping[str, TensorEntry], targets: Mapping[str, torch.Tensor]) -> None:
    """Compare the tensors of a file with those that wait for its data.

    Raises:
        ResumeMismatchError: Names the first that does not fit.
    """
    for name, entry in entries.items():
        target = targets.get(name)
        if target is None:
            raise ResumeMismatchError(f"{path.name}: tensor {name!r} is not one of the model's")
        if (tuple(target.shape), target.dtype) != (entry.shape, entry.dtype):
            raise ResumeMismatchError(
                f"{path.name}: tensor {name!r} is {list(entry.shape)} {entry.dtype}, "
                f"the model's is {list(target.shape)} {target.dtype}"
            )


def _fill(path: Path, entries: Mapping[str, TensorEntry], tensors: dict[str, torch.Tensor]) -> Loaded:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        start = min((entry.offset for entry in entries.values()), default=path.stat().st_size)
        _read_exactly(file, path, memoryview(bytearray(start)), digest)
        for name, entry in entries.items():
            target = tensors[name].detach()
            direct = target.device.type == "cpu" and target.is_contiguous()
            buffer = target if direct else torch.empty(entry.shape, dtype=entry.dtype)
            if entry.bytes:
                _read_exactly(file, path, memoryview(buffer.reshape(-1).view(torch.uint8).numpy()), digest)  # pyright: ignore[reportArgumentType] (numpy stubs)
            if not direct:
                target.copy_(buffer)
    return Loaded(tensors, digest.hexdigest())


def _read_exactly(file: BinaryIO, path: Path, view: memoryview, digest: Any) -> None:
    for start in range(0, len(view), _PIECE):
        piece = view[start : start + _PIECE]
        filled = 0
        while filled < len(piece):
            count = file.readinto(piece[filled:])  # type: ignore[attr-defined]
            if not count:
                raise CheckpointError(f"{path.name}: ended while it was read")
            filled += count
        digest.update(piece)
