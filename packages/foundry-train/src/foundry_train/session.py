"""What one process of a run has in its hands from beginning to end."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from foundry_config import ExperimentConfig, ExperimentPaths
from foundry_train.checkpointing import CheckpointManager
from foundry_train.distributed import World
from foundry_train.hooks import Hook
from foundry_train.loop import StopRequest
from foundry_train.progress import Reporter
from foundry_train.run_dir import RunDirectory
from foundry_train.signals import StopSignals


class Session(NamedTuple):
    """The surroundings of a training; `stack` closes what was opened, in reverse order."""

    config: ExperimentConfig
    base_dir: Path
    paths: ExperimentPaths
    world: World
    run: RunDirectory | None
    """The locked run directory; None on ranks other than 0."""
    manager: CheckpointManager
    reporter: Reporter
    hooks: Sequence[Hook]
    signals: StopSignals
    should_stop: StopRequest
    stack: contextlib.ExitStack
