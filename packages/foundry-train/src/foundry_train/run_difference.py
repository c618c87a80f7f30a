"""Where two runs part: the first step of their metrics, the first checkpoint and the first tensor that differ."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from foundry_config.errors import CheckpointError
from foundry_train.checkpoint_list import CheckpointInfo, list_checkpoints
from foundry_train.findings import Finding
from foundry_train.manifest import WEIGHT_FILES
from foundry_train.metrics_log import read_metrics
from foundry_train.safetensors_reader import load_new

_COMPARED = ("loss", "grad_norm", "lr", "tokens", "words", "epoch")
_OF_THE_BATCH = {"tokens", "words", "epoch"}


def compare_runs_bitwise(run: Path, other: Path) -> Iterator[Finding]:
    """Yield where two runs part: the first differing step of the metrics, the first differing checkpoint and tensor."""
    compared = yield from _compare_metrics(run, other)
    mine = {info.step: info for info in list_checkpoints(run / "checkpoints") if info.manifest}
    others = {info.step: info for info in list_checkpoints(other / "checkpoints") if info.manifest}
    common = sorted(mine.keys() & others.keys())
    for step in common:
        finding = _compare_weights(mine[step], others[step])
        if finding is not None:
            yield finding
            return
    if not common and not compared:
        yield Finding(True, str(other), "nothing could be compared: no step and no checkpoint is in both runs", True)
        return
    yield Finding(False, str(other), f"{len(common)} checkpoints of the same steps compared")


def tensors_of(info: CheckpointInfo) -> dict[str, torch.Tensor]:
    """Load the weights of a checkpoint.

    Raises:
        CheckpointError: A file is damaged.
        OSError: A file cannot be read.
    """
    names = sorted(filter(WEIGHT_FILES.fullmatch, info.manifest.files if info.manifest else ()))
    return {key: tensor for name in names for key, tensor in load_new(info.path / name).tensors.items()}


def step_records(run: Path) -> list[dict[str, Any]]:
    """Return the records of updates in a run's metrics."""
    records = read_metrics(run / "metrics.jsonl")
    return [r for r in records if r.get("kind") == "step" and isinstance(r.get("step"), int)]


def _compare_metrics(run: Path, other: Path) -> Generator[Finding, None, int]:
    """Yield the first difference; returns how many steps are in both runs."""
    mine = {record["step"]: record for record in step_records(run)}
    others = {record["step"]: record for record in step_records(other)}
    common = sorted(mine.keys() & others.keys())
    for step in common:
        a, b = mine[step], others[step]
        different = [key for key in _COMPARED if key in a and key in b and a[key] != b[key]]
        if different:
            key = next((key for key in different if key in _OF_THE_BATCH), different[0])
            what = "the batch" if key in _OF_THE_BATCH else key
            yield Finding(True, f"step {step}", f"{what} differs first here ({key}: {a[key]} and {b[key]})", True)
            return len(common)
    if common:
        yield Finding(False, str(other), f"{len(common)} steps compared: same losses, gradient norms and batches")
    return len(common)


def _compare_weights(mine: CheckpointInfo, other: CheckpointInfo) -> Finding | None:
    if mine.manifest is None or other.manifest is None or mine.manifest.weights.digest == other.manifest.weights.digest:
        return None
    try:
        a, b = tensors_of(mine), tensors_of(other)
    except (CheckpointError, OSError) as error:
        return Finding(True, mine.path.name, f"the weights differ, and one side cannot be read: {error}", True)
    only = sorted(a.keys() ^ b.keys())
    if only:
        return Finding(True, mine.path.name, f"only one of the runs has the tensor {only[0]!r}", True)
    name = next(n for n in sorted(a) if a[n].shape != b[n].shape or not torch.equal(a[n], b[n]))
    return Finding(True, mine.path.name, f"the weights differ first here, in the tensor {name!r}", True)
