"""What goes into the files of a checkpoint: tensors, the state in JSON, the Hugging Face files.

A `Capture` holds everything that one save needs, detached from the training. `contents_of` turns it into the files that
`publish` writes, with the slow parts (digest of the weights, hashes) running beside the writing.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import torch
from torch import nn

from foundry_model.loss import unwrapped
from foundry_model.pretrained import config_files
from foundry_train.manifest import (
    INDEX_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    TOKENIZER_FILES,
    FileEntry,
    Manifest,
    WeightsSummary,
    canonical_bytes,
    seal,
)
from foundry_train.publish import Contents, FileContent
from foundry_train.rng_state import RngState
from foundry_train.safetensors_writer import (
    check_finite,
    file_chunks,
    nbytes,
    plan_layout,
    shard,
    shard_names,
    weights_digest,
)
from foundry_train.side_work import start_beside

SHARD_BYTES = 5 * 10**9
_UNKNOWN_DIGEST = "sha256:" + "0" * 64  # as long as a real one, so that sizes are known before it is


class Capture(NamedTuple):
    """One state of a run, on the CPU, which nobody changes until it is written."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    """Empty for a checkpoint of weights only, as the two below."""
    rng: list[RngState]
    """One for each rank."""
    state: dict[str, Any] | None
    """Content of `trainer/state.json`."""
    plain_files: dict[str, bytes]
    """config.json, tokenizer files."""
    manifest: Manifest
    """Without `files`, `weights` and `self`."""

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(nbytes(tensor) for part in (self.weights, self.optimizer) for tensor in part.values())


class WrittenCheckpoint:
    """The outcome of writing a capture; `manifest` is complete once the manifest file was made."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest


def contents_of(
    capture: Capture,
    digest: Callable[[], str],
    *,
    carried: Mapping[str, Path] = MappingProxyType({}),
    shard_bytes: int = SHARD_BYTES,
) -> tuple[Contents, WrittenCheckpoint]:
    """Lay out the files of a checkpoint.

    Args:
        capture: What to write.
        digest: Waits for the digest of the weights; asked for after the other files, whose writing hides the wait.
        carried: Files taken over from another checkpoint of the same weights, by name.
        shard_bytes: Weights above this size are cut into several files, as transformers does.
    """
    outcome = WrittenCheckpoint(capture.manifest)
    groups = shard(dict(sorted(capture.weights.items())), shard_bytes)
    names = shard_names(len(groups))
    plain = dict(capture.plain_files)
    if capture.state is not None:
        plain[STATE_FILE] = canonical_bytes(capture.state)
    if len(groups) > 1:
        plain[INDEX_FILE] = _index(capture.weights, groups, names)

    def state_files() -> Iterator[FileContent]:
        for name, data in sorted(plain.items()):
            yield FileContent(name, len(data), lambda data=data: [data])
        for name, path in sorted(carried.items()):
            yield FileContent(name, path.stat().st_size, lambda path=path: _pieces(path))
        for rank, state in enumerate(capture.rng):
            yield _tensor_file(f"trainer/rng-{rank:05d}.safetensors", state.tensors, _metadata(capture.manifest))
        if capture.state is not None:
            yield _tensor_file(OPTIMIZER_FILE, capture.optimizer, _metadata(capture.manifest))

    def weight_files(known: str) -> Iterator[FileContent]:
        metadata = _metadata(capture.manifest) | {"foundry.weights": known}
        for name, group in zip(names, groups, strict=True):
            yield _tensor_file(name, {entry: capture.weights[entry] for entry in group}, metadata)

    def files() -> Iterator[FileContent]:
        yield from state_files()
        yield from weight_files(digest())

    def manifest(entries: dict[str, FileEntry]) -> bytes:
        params = sum(tensor.numel() for tensor in capture.weights.values())
        summary = WeightsSummary(digest(), len(capture.weights), params)
        outcome.manifest, data = seal(msgspec.structs.replace(capture.manifest, files=entries, weights=summary))
        return data

    size = sum(file.size for part in (state_files(), weight_files(_UNKNOWN_DIGEST)) for file in part)
    return Contents(size, files, manifest), outcome


def check_and_digest(capture: Capture) -> str:
    """Check that weights and optimizer are finite and return the digest of the weights.

    Raises:
        NonFiniteError: They are not.
    """
    check_moments = functools.partial(check_finite, capture.optimizer, what="the optimizer's moments")
    finish = start_beside(check_moments, size=capture.bytes)
    check_finite(capture.weights, what="the weights")
    digest = weights_digest(capture.weights)
    finish()
    return digest


def model_files(model: nn.Module) -> dict[str, bytes]:
    """The JSON files that make a folder a Hugging Face model; none for a module without a transformers config."""
    inner = unwrapped(model)
    if not hasattr(inner, "config") or not hasattr(inner.config, "model_type"):
        return {}
    return config_files(inner)


def tokenizer_files(tokenizer: Any, folder: Path | None) -> dict[str, bytes]:
    """The files of a tokenizer: from `folder` if given, else as its own `save_pretrained` writes them.

    Only names that tokenizers are known to use are taken, so that no code and no pickle gets in.
    """
    if folder is not None:
        return _known_files(folder)
    if not hasattr(tokenizer, "save_pretrained"):
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        return _known_files(Path(scratch))


def _known_files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in sorted(TOKENIZER_FILES) if (folder / name).is_file()}


def _metadata(manifest: Manifest) -> dict[str, str]:
    """What a file says of itself when it is met alone; `format` is what transformers asks for."""
    return {"format": "pt", "foundry.run_id": manifest.run_id, "foundry.step": str(manifest.step)}


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(2**20):
            yield piece


def _tensor_file(name: str, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> FileContent:
    layout = plan_layout(tensors, metadata)
    return FileContent(name, layout.size, lambda: file_chunks(layout, tensors))


def _index(weights: Mapping[str, torch.Tensor], groups: list[list[str]], names: Any) -> bytes:
    places = {entry: name for name, group in zip(names, groups, strict=True) for entry in group}
    total = sum(nbytes(tensor) for tensor in weights.values())
    return canonical_bytes({"metadata": {"total_size": total}, "weight_map": places})
