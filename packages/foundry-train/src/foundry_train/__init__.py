"""A training run: devices, loop, crash-proof checkpoints, exact resume, logs.

The public names are loaded when they are first asked for, so that `foundry_train.report` or `foundry_train.lock` do not
wait for torch and transformers.
"""

from typing import TYPE_CHECKING

from foundry_config.loading_later import later

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

__getattr__, __dir__ = later(
    __name__,
    {
        "checkpointing": ("CheckpointManager",),
        "hooks": ("Hook", "Moment", "StepRecord"),
        "progress": ("PlainReporter", "Reporter"),
        "run_dir": ("RunDirectory",),
        "signals": ("StopSignals", "Stopped"),
        "state": ("TrainState",),
        "trainer": ("Trainer",),
        "summary": ("TrainingSummary",),
        "distributed": ("World",),
        "devices": ("get_device",),
        "environment": ("get_git_commit_hash",),
        "seeding": ("set_seed",),
    },
)
