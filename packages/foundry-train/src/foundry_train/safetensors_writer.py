"""Write tensors as a safetensors file: same tensors, same bytes, in pieces that can be hashed and written at once.

    [8 bytes: header length][header: JSON, padded to 64][tensor data, no gaps]

Differences from the library's writer: the order is fixed (wider types first, then names), nothing is copied, the caller
does the writing (so that fsync, permissions and errors are the project's own), and a digest of the *weights* is
independent of how they are cut into files.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from foundry_config.errors import NonFiniteError
from foundry_model.safetensors_header import DTYPES

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 64  # of the first tensor; a multiple of every element size and of a cache line
_GATHER_BELOW = 2**16  # smaller tensors are joined, so that a thousand norms are not a thousand writes
_GATHER_SIZE = 2**20


class Layout(NamedTuple):
    """Where everything goes in one file."""

    prefix: bytes
    """Length, header and padding."""
    names: list[str]
    """Tensors in the order of their data."""
    size: int
    """Of the whole file. [bytes]"""


def plan_layout(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Layout:
    """Decide order and header of a file; depends on names, types, shapes and `metadata` only.

    Raises:
        ValueError: A tensor type that safetensors does not know.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in names:
        size = nbytes(tensors[name])
        shape = list(tensors[name].shape)
        header[name] = {"dtype": dtype_name(tensors[name]), "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return Layout(struct.pack("<Q", len(text)) + text, names, 8 + len(text) + offset)


def file_chunks(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """Yield the bytes of the file in order; large tensors (on the CPU) are not copied."""
    pending = bytearray(layout.prefix)
    for name in layout.names:
        data = raw_bytes(tensors[name])
        if len(data) < _GATHER_BELOW:
            pending += data
            if len(pending) < _GATHER_SIZE:
                continue
            data = memoryview(b"")
        if pending:
            yield memoryview(pending)
            pending = bytearray()
        if len(data):
            yield data
    if pending:
        yield memoryview(pending)


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return `sha256:...` over the tensors in order of name: a line with name, type and shape, then the raw bytes.

    Neither the order nor the number of files enters, so it survives resharding and uploading.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        line = [name, dtype_name(tensors[name]), list(tensors[name].shape)]
        digest.update(json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
        digest.update(raw_bytes(tensors[name]))
    return "sha256:" + digest.hexdigest()


def check_finite(tensors: Mapping[str, torch.Tensor], *, what: str) -> None:
    """Refuse tensors with a NaN or an infinity in them.

    Raises:
        NonFiniteError: Names the tensors.
    """
    broken = [name for name in sorted(tensors) if not is_finite(tensors[name])]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise NonFiniteError(f"{what} hold NaN or infinite numbers in {', '.join(broken[:3])}{more}; nothing was saved")


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether every number is finite; one pass without a temporary, since min and max carry NaN along."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # the 8-bit floats have no reductions
        tensor = tensor.float()
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor))


def shard(tensors: Mapping[str, torch.Tensor], limit: int) -> list[list[str]]:
    """Cut the names, in order, into groups of at most `limit` bytes (one larger tensor makes a group of its own)."""
    groups: list[list[str]] = [[]]
    size = 0
    for name in tensors:
        if groups[-1] and size + nbytes(tensors[name]) > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += nbytes(tensors[name])
    return groups


def shard_names(count: int) -> Sequence[str]:
    """File names of `count` shards, as transformers expects them.

    >>> shard_names(2)
    ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{index + 1:05d}-of-{count:05d}.safetensors" for index in range(count)]


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor, row-major; a view where it lies so on the CPU already."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():
        return memoryview(b"")
    return memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType] (numpy stubs)


def nbytes(tensor: torch.Tensor) -> int:
    """Size of a tensor's data. [bytes]"""
    return tensor.numel() * tensor.element_size()


def dtype_name(tensor: torch.Tensor) -> str:
    """The type's name in safetensors.

    Raises:
        ValueError: It has none.
    """
    if tensor.dtype not in DTYPE_NAMES:
        raise ValueError(f"tensors of type {tensor.dtype} cannot be saved")
    return DTYPE_NAMES[tensor.dtype]
