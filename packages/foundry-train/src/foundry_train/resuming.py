"""Where a run begins: at step 0, at its own newest checkpoint, at a chosen one, or at a checkpoint of another run."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from foundry_config.errors import CheckpointError, ConfigError, ResumeMismatchError
from foundry_train.checkpoint_list import CheckpointInfo, describe, list_checkpoints
from foundry_train.checkpointing import CheckpointManager
from foundry_train.lineage import fingerprint_changes, read_events
from foundry_train.manifest import Manifest, ParentLink
from foundry_train.optimizers import OptimizerGroup
from foundry_train.quarantine import quarantined
from foundry_train.restoring import DamagedCheckpointError, Parts, restore_full
from foundry_train.run_dir import parse_resume
from foundry_train.state import TrainState

logger = logging.getLogger(__name__)


class Beginning(NamedTuple):
    """Where and from what this process goes on."""

    state: TrainState
    from_step: int | None
    """Step of the checkpoint that was loaded; None at the very start."""
    manifest: Manifest | None = None
    drift: Sequence[str] = ()
    """Numeric differences to the process that saved it, which were allowed."""


def begin(
    manager: CheckpointManager,
    model: torch.nn.Module,
    optimizer: OptimizerGroup,
    scaler: torch.amp.GradScaler | None,
    *,
    resume: str,
    fingerprint: Mapping[str, Any],
    allow_numeric_drift: bool,
) -> Beginning:
    """Load what there is to go on from; a fresh `TrainState` if there is nothing.

    Raises:
        CheckpointError: Checkpoints exist, existed or were asked for, and none is valid.
        ResumeMismatchError: The machine or its libraries would give other bits, and that was not allowed.
    """
    step = parse_resume(resume)
    manager.clean_up()
    if step is not None:
        _check_exists(manager, step)
    elif all(info.kind == "weights" and info.problem is None for info in manager.list()):
        if resume != "never":
            _check_nothing_was_lost(manager)
        return _from_scratch(manager, resume)
    state = manager.restore(model, optimizer, scaler, step=step)
    info = next(info for info in manager.list() if info.step == state.step)
    assert info.manifest is not None, "it was just loaded"
    drift = check_drift(info.manifest.fingerprint, fingerprint, allowed=allow_numeric_drift)
    if step is not None:
        manager.rewind(step)  # last of all: a wish that is refused moves nothing
    return Beginning(state, state.step, info.manifest, drift)


def fork_source(path: Path) -> CheckpointInfo:
    """Return the checkpoint to fork from: `path` itself, or the newest full one of the run at `path`.

    Raises:
        CheckpointError: There is none that can be used.
    """
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if (folder / "MANIFEST.json").is_file():
        name = folder.resolve().name
        infos = [describe(folder, int(name.removeprefix("step-")) if name.startswith("step-") else 0)]
    else:
        infos = list_checkpoints(folder) if folder.is_dir() else []
    usable = [info for info in infos if _is_usable(info)]
    if not usable:
        reasons = "; ".join(f"{info.path.name}: {info.problem or info.kind + ' only'}" for info in infos)
        raise CheckpointError(
            f"--fork {path}: no full checkpoint to start from ({reasons or 'nothing there'}); the run has full ones of "
            f"the steps {_usable_steps(folder)}, and training.milestones: full makes every milestone one"
        )
    return usable[-1]


def has_own_full(manager: CheckpointManager) -> bool:
    """Whether the run holds a full checkpoint, sound or not, so that it goes on from its own and not from a fork's."""
    return any(info.kind != "weights" for info in manager.list())


def begin_fork(
    manager: CheckpointManager,
    source: CheckpointInfo,
    model: torch.nn.Module,
    optimizer: OptimizerGroup,
    scaler: Any,
    *,
    data_digest: str,
    tokenizer_digest: str,
    total_steps: int,
) -> Beginning:
    """Load the checkpoint of another run; on other data, the data order begins anew.

    Raises:
        CheckpointError: It is damaged, or the fork has lost checkpoints of its own.
        ConfigError: The fork would have no step left to train.
        ResumeMismatchError: It belongs to another model, optimizer or tokenizer.
    """
    manager.clean_up()
    _check_nothing_was_lost(manager)
    _check_fits(source, tokenizer_digest=tokenizer_digest, total_steps=total_steps)
    try:
        state = restore_full(source, Parts(model, optimizer, None, scaler))
    except DamagedCheckpointError as error:
        raise CheckpointError(f"--fork {source.path}: {error}") from error
    except ResumeMismatchError as error:
        raise ResumeMismatchError(
            f"--fork {source.path}: {error}; a fork keeps the model and training.optimizer of the run it comes from"
        ) from error
    assert source.manifest is not None, "fork_source has read it"
    if source.manifest.data != data_digest:
        logger.info("the fork trains on other data: its order begins anew")
        state.epoch = state.position = 0
    return Beginning(state, state.step, source.manifest)


def _check_fits(source: CheckpointInfo, *, tokenizer_digest: str, total_steps: int) -> None:
    """Refuse a checkpoint whose ids mean other pieces, or that lies at the end of the fork already."""
    manifest = source.manifest
    assert manifest is not None, "fork_source has read it"
    if manifest.tokenizer != tokenizer_digest:
        raise ResumeMismatchError(
            f"--fork {source.path}: its weights belong to another tokenizer than this run has, so that ids would mean "
            "other pieces; to train on with its own: "
            f"--set tokenizer.source={shlex.quote(str(source.path))}"
        )
    if manifest.step >= total_steps:
        raise ConfigError(
            f"--fork {source.path}: it is at step {manifest.step:,}, and this run ends after {total_steps:,} steps; "
            "raise training.train_steps or training.epochs, or fork from an earlier step"
        )


def parent_link(source: CheckpointInfo) -> ParentLink:
    """The link that run.json keeps to the checkpoint it was forked from."""
    assert source.manifest is not None, "fork_source has read it"
    manifest = source.manifest
    return ParentLink(step=manifest.step, self_digest=manifest.self_digest, run_id=manifest.run_id)


def check_drift(saved: Mapping[str, Any], current: Mapping[str, Any], *, allowed: bool) -> list[str]:
    """Return what makes this process compute other bits than the one that saved.

    Raises:
        ResumeMismatchError: Something does, and it was not allowed.
    """
    changes = fingerprint_changes(saved, current) if saved else []
    if changes and not allowed:
        lines = "".join(f"\n  {change}" for change in changes)
        raise ResumeMismatchError(
            f"going on here would not give the same bits as going on there:{lines}\n"
            "use the same machine and libraries, or accept the difference with --allow-numeric-drift"
        )
    for change in changes:
        logger.warning("numeric drift: %s", change)
    return changes


def _check_exists(manager: CheckpointManager, step: int) -> None:
    steps = [info.step for info in manager.list() if info.kind == "full"]
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(f"--resume step={step}: there is no full checkpoint of that step; there are: {known}")


def _check_nothing_was_lost(manager: CheckpointManager) -> None:
    """Never begin anew, silently, a run that has saved full checkpoints which are now damaged or gone.

    Raises:
        CheckpointError: It has; names those in quarantine with their reasons.
    """
    events = read_events(manager.run_dir)
    saved = [int(event["step"]) for event in events if event.get("event") == "save" and event.get("kind") == "full"]
    aside = quarantined(manager.checkpoints)
    if not saved and not any(folder.is_full for folder in aside):
        return
    lines = "".join(f"\n  .quarantine/{folder.name}: {folder.reason}" for folder in aside)
    last = f", the last at step {saved[-1]}" if saved else ""
    raise CheckpointError(
        f"no full checkpoint is left in {manager.checkpoints}, although the run has saved some{last}{lines}\n"
        "Restore one of them from a copy, or start again in another training.output_dir"
    )


def _is_usable(info: CheckpointInfo) -> bool:
    return info.kind == "full" and info.problem is None


def _usable_steps(folder: Path) -> str:
    """The steps of the full checkpoints in the run that `folder`, one of its checkpoints or all of them, belongs to."""
    checkpoints = folder if folder.name == "checkpoints" else folder.parent
    infos = list_checkpoints(checkpoints) if checkpoints.is_dir() else []
    return ", ".join(str(info.step) for info in infos if _is_usable(info)) or "(none)"


def _from_scratch(manager: CheckpointManager, resume: str) -> Beginning:
    """Begin at step 0; weights that were saved already will be made again, bit for bit."""
    weights = [info.step for info in manager.list()]
    if weights and resume == "must":
        raise CheckpointError(f"nothing to resume: {manager.checkpoints} holds weights only (up to step {weights[-1]})")
    if weights:
        logger.warning("there are only weights (up to step %d) and no full checkpoint: beginning anew", weights[-1])
    return Beginning(TrainState(), None)
