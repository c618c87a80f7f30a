"""Ask the disk for room before it is needed: for the whole schedule before training, for each save before it starts.

12 milestones x 0.50 GB + 3 full x 1.49 GB + 0.05 GB of metrics = 10.5 GB needed, 3.2 GB free on the volume of runs/a
"""

import errno
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from foundry_config.errors import StorageError
from foundry_data import fs
from foundry_data.disk_advice import disk_advice, is_full
from foundry_model.pretrained import model_state
from foundry_train.tensor_tree import optimizers_of

FULL_OR_READ_ONLY = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_RUN_BYTES = 2**20  # run.json, environment.json, lineage ...
_STEP_BYTES = 512  # of metrics.jsonl; a line has some 350
_STATE_PER_PARAMETER = {"AdamW": 2, "Adam": 2, "SGD": 1, "Muon": 1, "Adafactor": 1}  # tensors of a parameter's size
_DEFAULT_STATE = 2


class CheckpointSizes(NamedTuple):
    """What one checkpoint takes on disk. [bytes]"""

    weights: int
    full: int


def checkpoint_sizes(model: nn.Module, optimizer: object, *, beside: int = 0) -> CheckpointSizes:
    """Estimate the sizes of checkpoints, also before the optimizer holds any state.

    Args:
        model: Its weights are in every checkpoint.
        optimizer: Its state is in the full ones.
        beside: Bytes of tokenizer and other small files.
    """
    weights = beside + sum(_bytes(tensor) for tensor in model_state(model).values())
    state = 0
    for member in optimizers_of(optimizer):
        held = sum(_bytes(v) for entry in member.state.values() for v in entry.values() if isinstance(v, torch.Tensor))
        factor = _STATE_PER_PARAMETER.get(type(member).__name__, _DEFAULT_STATE)
        expected = factor * sum(_bytes(p) for group in member.param_groups for p in group["params"])
        state += held or expected
    return CheckpointSizes(weights, weights + state)


def check_space(
    run_dir: Path, sizes: CheckpointSizes, *, milestones: int, milestone_kind: str, full: int, steps: int
) -> int:
    """Check that what is left of a schedule fits on the volume of `run_dir`; returns the bytes it needs.

    Args:
        run_dir: The run, or where it will be.
        sizes: Of one checkpoint.
        milestones: Scheduled checkpoints still to be written, the one of the last step left out.
        milestone_kind: `weights` or `full`.
        full: Full checkpoints beside those that will be there at once and are not there yet.
        steps: Updates still to be made.

    Raises:
        StorageError: There is not enough room; the message shows the arithmetic.
    """
    each = sizes.full if milestone_kind == "full" else sizes.weights
    metrics = _RUN_BYTES + steps * _STEP_BYTES
    needed = milestones * each + full * sizes.full + metrics
    free = free_bytes(run_dir)
    if needed > free:
        sum_text = f"{milestones} milestones x {gigabytes(each)} + {full} full x {gigabytes(sizes.full)}"
        raise StorageError(
            f"the checkpoints of this run do not fit: {sum_text} + {gigabytes(metrics)} of metrics = "
            f"{gigabytes(needed)} needed, {gigabytes(free)} free on the volume of {run_dir}; free some space, "
            "schedule fewer checkpoints, lower training.keep_checkpoints, or set training.milestones: weights"
        )
    return needed


def free_bytes(path: Path) -> int:
    """Free bytes on the volume of `path`, which need not exist yet.

    Raises:
        StorageError: The volume does not answer.
    """
    existing = next((parent for parent in [path, *path.parents] if parent.exists()), Path("/"))
    try:
        return fs.backend().free_bytes(existing)
    except OSError as error:
        raise storage_error(error, existing) from error


def storage_error(error: OSError, path: Path, *, needed: int | None = None) -> StorageError:
    """Turn an error of the disk into a message that names the path, the error, and the room there was."""
    name = errno.errorcode.get(error.errno or 0, "error")
    where = error.filename or path
    room = ""
    if needed is not None:
        room = f"; {gigabytes(needed)} needed"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        room += f", {_free_text(path)} free"
    advice = disk_advice(error, Path(where))
    comfort = "" if advice and not is_full(error) else "earlier checkpoints are intact"
    parts = [f"cannot write {where}: {error.strerror or error} ({name}){room}", advice, comfort]
    return StorageError("; ".join(part for part in parts if part))


def gigabytes(size: int) -> str:
    """Bytes for people. `gigabytes(1_490_000_000)` is `1.49 GB`."""
    return f"{size / 1e9:.2f} GB" if size >= 10**7 else f"{size / 1e6:.3f} MB"


def _free_text(path: Path) -> str:
    existing = next((parent for parent in [path, *path.parents] if parent.exists()), Path("/"))
    try:
        return gigabytes(fs.backend().free_bytes(existing))
    except OSError:
        return "unknown"


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
