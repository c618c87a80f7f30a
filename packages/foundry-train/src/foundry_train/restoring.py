"""Load one checkpoint into a model, an optimizer and all else that a resume needs, proving every file on the way.

The large files are read straight into the model's memory and hashed at the same time. If one turns out to be damaged,
model and optimizer are left in no usable state, and the caller loads an older checkpoint over them.
"""

import functools
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from foundry_config.errors import CheckpointError, ResumeMismatchError
from foundry_data import fs
from foundry_model.pretrained import model_state
from foundry_train.checkpoint_list import CheckpointInfo, file_problems
from foundry_train.manifest import OPTIMIZER_FILE, RNG_FILES, STATE_FILE, WEIGHT_FILES, Manifest
from foundry_train.plain_values import decode_plain
from foundry_train.rank_agreement import collective_device, rank
from foundry_train.rng_state import RngState, derived_rng, restore_rng
from foundry_train.safetensors_reader import Loaded, load_into, load_new
from foundry_train.side_work import start_beside
from foundry_train.state import TrainState, state_from_json
from foundry_train.tensor_tree import OptimizerTree, import_optimizer

logger = logging.getLogger(__name__)

STATE_FORMAT = "foundry.state/1"


class DamagedCheckpointError(Exception):
    """The checkpoint is not what its manifest says; the message names the file."""


class Parts(NamedTuple):
    """What a checkpoint is loaded into; None leaves that part out."""

    model: nn.Module
    optimizer: Any = None
    lr_scheduler: Any = None
    scaler: Any = None


def restore_full(info: CheckpointInfo, parts: Parts) -> TrainState:
    """Load a full checkpoint: weights, optimizer, schedule, scaler, random generators; returns the counters.

    Raises:
        DamagedCheckpointError: Some file is not what the manifest says.
        ResumeMismatchError: The checkpoint is sound but belongs to another model or optimizer.
    """
    manifest = _checked_manifest(info)
    state = _read_state(info.path)
    load_optimizer = functools.partial(_load_proven, info.path, OPTIMIZER_FILE, manifest)
    optimizer_file = start_beside(load_optimizer, size=info.bytes)
    _load_weights(info.path, manifest, parts.model)
    tensors = optimizer_file().tensors
    if parts.optimizer is not None:
        import_optimizer(parts.model, parts.optimizer, OptimizerTree(tensors, state["optimizers"]))
    _restore_scheduler(parts.lr_scheduler, state["lr_scheduler"])
    _restore_scaler(parts.scaler, state["scaler"])
    device = collective_device(parts.model)
    restore_rng(_read_generators(info.path, manifest, state["rng"], device), device)
    return state_from_json(state["train"])


def restore_weights(info: CheckpointInfo, model: nn.Module) -> None:
    """Load only the weights of a checkpoint, of either kind. Raises as `restore_full` does."""
    _load_weights(info.path, _checked_manifest(info), model)


def _checked_manifest(info: CheckpointInfo) -> Manifest:
    """Check manifest, sizes, and the hashes of all files but the large ones, which are hashed while they are loaded."""
    if info.manifest is None or info.problem is not None:
        raise DamagedCheckpointError(info.problem)
    small = {n: e for n, e in info.manifest.files.items() if n != OPTIMIZER_FILE and not WEIGHT_FILES.fullmatch(n)}
    problems = file_problems(info.path, info.manifest, names=small)
    if problems:
        raise DamagedCheckpointError("; ".join(problems))
    return info.manifest


def _load_weights(folder: Path, manifest: Manifest, model: nn.Module) -> None:
    targets = model_state(model)
    found: set[str] = set()
    for name in sorted(filter(WEIGHT_FILES.fullmatch, manifest.files)):
        found |= set(_load_proven(folder, name, manifest, targets).tensors)
    missing = sorted(set(targets) - found)
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ResumeMismatchError(
            f"{folder.name} does not hold the model's {names}; use the config that it was saved with"
        )


def _load_proven(folder: Path, name: str, manifest: Manifest, targets: dict[str, torch.Tensor] | None = None) -> Loaded:
    """Load a file and compare its hash; a mismatch of shapes is only believed when the file is sound."""
    path, entry = folder / name, manifest.files.get(name)
    if entry is None:
        raise DamagedCheckpointError(f"the manifest lists no {name}")
    try:
        loaded = load_new(path) if targets is None else load_into(path, targets)
    except ResumeMismatchError as error:
        if fs.sha256_file(path) == entry.sha256:
            raise ResumeMismatchError(f"{folder.name}/{error}; use the config that it was saved with") from error
        raise DamagedCheckpointError(f"{name} is damaged: {error}") from error
    except (CheckpointError, OSError) as error:
        raise DamagedCheckpointError(f"{name} is damaged: {error}") from error
    if loaded.sha256 != entry.sha256:
        raise DamagedCheckpointError(f"{name} is damaged: its SHA-256 is not the one in the manifest")
    return loaded


def _read_state(folder: Path) -> dict[str, Any]:
    state = json.loads((folder / STATE_FILE).read_bytes())
    if state.get("format") != STATE_FORMAT:
        raise DamagedCheckpointError(f"{STATE_FILE} has the format {state.get('format')!r}, expected {STATE_FORMAT}")
    return state


def _read_generators(folder: Path, manifest: Manifest, plain: list[dict[str, Any]], device: torch.device) -> RngState:
    """This rank's generators; a rank that did not exist at the time of the save gets ones derived from rank 0's."""
    own = rank()
    saved = sorted(filter(RNG_FILES.fullmatch, manifest.files))
    if own < len(saved):
        return RngState(plain[own], load_new(folder / saved[own]).tensors)
    return derived_rng(RngState(plain[0], load_new(folder / saved[0]).tensors), own, device)


def _restore_scheduler(scheduler: Any, saved: Any) -> None:
    if scheduler is not None and saved is not None:
        scheduler.load_state_dict(decode_plain(saved))


def _restore_scaler(scaler: Any, saved: dict[str, Any] | None) -> None:
    if scaler is None or not scaler.is_enabled():
        return
    if saved:
        scaler.load_state_dict(decode_plain(saved))
    else:
        logger.warning("the checkpoint holds no loss scale (it was not saved in fp16); starting with a fresh one")
