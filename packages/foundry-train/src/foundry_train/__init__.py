"""A training run: devices, loop, crash-proof checkpoints, exact resume, logs.

The public names are loaded when they are first asked for, so that `foundry_train.report` or `foundry_train.lock` do not
wait for torch and transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundry_train.checkpointing import CheckpointManager
    from foundry_train.devices import get_device
    from foundry_train.distributed import World
    from foundry_train.environment import get_git_commit_hash
    from foundry_train.hooks import Hook, Moment, StepRecord
    from foundry_train.progress import PlainReporter, Reporter
    from foundry_train.run_dir import RunDirectory
    from foundry_train.seeding import set_seed
    from foundry_train.signals import Stopped, StopSignals
    from foundry_train.state import TrainState
    from foundry_train.summary import TrainingSummary
    from foundry_train.trainer import Trainer

__all__ = [
    "CheckpointManager",
    "Hook",
    "Moment",
    "PlainReporter",
    "Reporter",
    "RunDirectory",
    "StepRecord",
    "StopSignals",
    "Stopped",
    "TrainState",
    "Trainer",
    "TrainingSummary",
    "World",
    "get_device",
    "get_git_commit_hash",
    "set_seed",
]

_HOMES = {
    "CheckpointManager": "checkpointing",
    "Hook": "hooks",
    "Moment": "hooks",
    "PlainReporter": "progress",
    "Reporter": "progress",
    "RunDirectory": "run_dir",
    "StepRecord": "hooks",
    "StopSignals": "signals",
    "Stopped": "signals",
    "TrainState": "state",
    "Trainer": "trainer",
    "TrainingSummary": "summary",
    "World": "distributed",
    "get_device": "devices",
    "get_git_commit_hash": "environment",
    "set_seed": "seeding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
