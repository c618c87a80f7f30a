"""When a run saves: milestones of the plan, rolling checkpoints for safety, the last one, and one before a stop.

A milestone is permanent and holds what `training.milestones` says; a rolling checkpoint is always full, so that a
resume can start from it. When both fall on one step, one full, permanent checkpoint serves as both.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from foundry_config import TrainingConfig, TrainingPlan
from foundry_train.checkpointing import CheckpointManager
from foundry_train.distributed import World
from foundry_train.manifest import Kind
from foundry_train.optimizers import OptimizerGroup
from foundry_train.state import TrainState

logger = logging.getLogger(__name__)


class Saved(NamedTuple):
    """A checkpoint that was taken; an asynchronous one may still be on its way to the disk."""

    step: int
    kind: Kind
    label: str | None
    milestone: bool


class Saver:
    """Takes checkpoints of one run at the right steps."""

    def __init__(
        self,
        manager: CheckpointManager,
        plan: TrainingPlan,
        training: TrainingConfig,
        *,
        model: torch.nn.Module,
        tokenizer: Any,
        optimizer: OptimizerGroup,
        scaler: torch.amp.GradScaler | None,
        world: World,
        resumed: Saved | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            manager: Writes them.
            plan: Where the milestones are.
            training: Distances, and what a milestone holds.
            model: Saved from itself, never from a wrapper.
            tokenizer: Stored with the model.
            optimizer: Stored in full checkpoints.
            scaler: The loss scale of fp16.
            world: Every rank calls the same methods at the same steps.
            resumed: The checkpoint that this process went on from.
            clock: Monotonic seconds.
        """
        self._manager = manager
        self._milestones = {milestone.step: milestone for milestone in plan.checkpoints}
        self._total_steps = plan.total_steps
        self._training = training
        # the learning rate is a function of the step, so there is no scheduler to save
        self._parts = (model, tokenizer, optimizer, None)
        self._scaler = scaler
        self._world = world
        self._clock = clock
        self._last_full = clock()
        self.last = resumed

    def is_milestone(self, step: int) -> bool:
        """Whether the plan has a checkpoint at `step`."""
        return step in self._milestones

    def due(self, step: int) -> Kind | None:
        """What is to be saved at `step`, if anything and not done yet; the last step is left to `save_last`.

        Raises:
            StorageError: An earlier checkpoint could not be written in the background.
        """
        self._manager.raise_pending()
        if step >= self._total_steps or (self.last is not None and self.last.step == step):  # gone on with from there
            return None
        if step > 0 and self._rolling_is_due(step):
            return "full"
        return self._training.milestones if self.is_milestone(step) else None

    def save(self, state: TrainState, loss: float | None, kind: Kind) -> Saved:
        """Take a checkpoint, written in the background where the config says so."""
        milestone = self._milestones.get(state.step)
        self._manager.save_async(*self._parts, **self._details(state, loss, kind))
        if kind == "full":
            self._last_full = self._clock()
        self.last = Saved(state.step, kind, milestone.label if milestone else None, milestone is not None)
        return self.last

    def save_last(self, state: TrainState, loss: float | None) -> Saved:
        """Save everything and wait until it is on the disk: the last step, or a stop before it."""
        if self.last is not None and self.last.step == state.step and self.last.kind == "full":
            self.wait()
            return self.last
        milestone = self._milestones.get(state.step)
        self._manager.save_checkpoint(*self._parts, **self._details(state, loss, "full"))
        self.last = Saved(state.step, "full", milestone.label if milestone else None, milestone is not None)
        return self.last

    def wait(self) -> None:
        """Wait for a checkpoint that is being written; raise what went wrong with it."""
        self._manager.wait()
        self._manager.raise_pending()

    def _rolling_is_due(self, step: int) -> bool:
        every_steps, every_minutes = self._training.save_every_steps, self._training.save_every_minutes
        if every_steps is not None and step % every_steps == 0:
            return True
        if every_minutes is None:
            return False
        return self._world.main_says(self._clock() - self._last_full >= 60 * every_minutes)

    def _details(self, state: TrainState, loss: float | None, kind: Kind) -> dict[str, Any]:
        milestone = self._milestones.get(state.step)
        return {
            "global_step": state.step,
            "state": state,
            "scaler": self._scaler,
            "kind": kind,
            "label": milestone.label if milestone else None,
            "milestone": milestone is not None,
            "loss": loss,
        }
