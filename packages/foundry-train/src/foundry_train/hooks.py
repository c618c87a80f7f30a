"""What a run tells its surroundings: one record per step, and four moments at which own code may run.

    class PrintLoss(Hook):
        def on_step(self, moment: Moment) -> None:
            print(moment.record.step, moment.record.loss)

    Trainer(config, base_dir, hooks=[PrintLoss()]).train()

Hooks look, they do not steer: the loop restores the random generators and the train/eval mode after every hook, so that
a hook which samples text or draws random numbers leaves the training bits as they were.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import torch

from foundry_train.seeding import undisturbed_generators


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One optimizer update, as it is shown and written to metrics.jsonl."""

    step: int
    """Updates completed, this one included."""
    total_steps: int
    epoch: int
    """Passes over the data completed before the batch of this step."""
    loss: float
    """Exact mean over the target tokens of the global batch. [nats per token]"""
    lr: float
    grad_norm: float
    """Global norm before clipping."""
    tokens: int
    """Seen since the start of the run, this step included."""
    words: int
    """Whitespace-separated words of raw text seen since the start of the run."""
    tokens_per_second: float
    """Over all ranks, smoothed."""
    tokens_per_second_per_device: float
    mfu: float | None
    memory_bytes: int
    """Peak of allocated memory on CUDA, resident size elsewhere."""
    eta_seconds: float
    micro_batch: int
    """Sequences per forward pass and rank."""
    skipped: bool = False
    """The update was left out because loss or gradient was not finite."""


class Moment(NamedTuple):
    """What a hook gets to see."""

    record: StepRecord | None
    """The last update; None before the first one of this process."""
    step: int
    """Updates completed."""
    model: torch.nn.Module
    log: Callable[[dict[str, Any]], None]
    """Write a record with a `kind`, other than `step` and `event`, to metrics.jsonl and to every other sink; its `step`
    is that of the moment."""


class Hook:
    """Base of hooks; override what you need."""

    def on_start(self, moment: Moment) -> None:
        """Before the first update of this process."""

    def is_due(self, step: int) -> bool:  # noqa: ARG002
        """Whether `on_step` wants to be called after update `step`; in between, the hook then costs nothing."""
        return True

    def on_step(self, moment: Moment) -> None:
        """After every update for which `is_due`."""

    def on_checkpoint(self, moment: Moment) -> None:
        """Just before a scheduled checkpoint is taken, the last one included."""

    def on_end(self, moment: Moment) -> None:
        """After the last update of the run, before its last checkpoint."""


@contextlib.contextmanager
def undisturbed(modules: Sequence[torch.nn.Module], device: torch.device) -> Iterator[None]:
    """Run a block that may draw random numbers or switch to evaluation, then put everything back as it was.

    Args:
        modules: All modules of the model, itself included; listing them takes longer than the rest of this.
        device: Whose random generator is looked after, beside the CPU's.

    >>> layer = torch.nn.Dropout(0.5)
    >>> before = torch.get_rng_state()
    >>> with undisturbed([layer], torch.device("cpu")):
    ...     layer.eval(), torch.rand(3)
    (Dropout(p=0.5, inplace=False), tensor([...]))
    >>> layer.training, bool((torch.get_rng_state() == before).all())
    (True, True)
    """
    modes = [module.training for module in modules]
    try:
        with undisturbed_generators(device):
            yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            if module.training is not training:
                module.training = training
