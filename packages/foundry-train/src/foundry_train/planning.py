"""From prepared data to the plan of the run and to its batches."""

import logging
import math
from typing import NamedTuple

import msgspec

from foundry_config import CorpusCounts, ExperimentConfig, TrainingPlan, plan_training
from foundry_data import fs
from foundry_data.packing import Rows
from foundry_data.torch_loader import BatchStream
from foundry_train.distributed import World
from foundry_train.run_dir import RunDirectory
from foundry_train.space import storage_error
from foundry_train.state import TrainState

logger = logging.getLogger(__name__)

PLAN_NAME = "plan.json"


class BatchSource(NamedTuple):
    """Opens streams of global batches over the training rows."""

    config: ExperimentConfig
    rows: Rows
    world: World

    def stream(self, state: TrainState, *, prefetch: int | None = None) -> BatchStream:
        """Return the batches from where `state` stands."""
        data = self.config.data
        return BatchStream(
            self.rows,
            global_batch=data.batch_size * self.config.training.gradient_accumulation_steps,
            seed=self.config.random_seed,
            shuffle=data.shuffle,
            drop_last=data.drop_last,
            rank=self.world.rank,
            world_size=self.world.size,
            epoch=state.epoch,
            position=state.position,
            prefetch=data.prefetch_batches if prefetch is None else prefetch,
            pin_memory=self.world.device.type == "cuda",
        )


def make_plan(source: BatchSource) -> TrainingPlan:
    """Plan the run; words are counted in the order in which training will see them.

    Raises:
        ConfigError: No step fits, or limits contradict each other.
        DataError: An epoch would have no batch.
    """
    rows = source.rows
    stream = source.stream(TrainState(), prefetch=0)
    try:
        counts = CorpusCounts(
            sequences=len(rows),
            tokens=len(rows.store) - rows.losses["dropped_tokens"],
            words=rows.store.manifest.words,
            words_after=stream.words_after,
        )
        return plan_training(source.config, counts)
    finally:
        stream.close()


def write_plan(run: RunDirectory, plan: TrainingPlan) -> None:
    """Write plan.json.

    Raises:
        StorageError: The disk refuses.
    """
    path = run.path / PLAN_NAME
    try:
        fs.write_atomic(path, msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")
    except OSError as error:
        raise storage_error(error, path) from error


def describe_plan(plan: TrainingPlan) -> str:
    """Say how long the run is.

    >>> describe_plan(plan)                                                          # doctest: +SKIP
    '666 steps = 2 epochs of 333, 34 of warm-up, 5 checkpoints'
    """
    steps, saves = plan.total_steps, len(plan.checkpoints)
    return (
        f"{steps:,} step{'s' if steps != 1 else ''} = {_epochs(plan.epochs)} of {plan.steps_per_epoch:,}, "
        f"{plan.warmup_steps:,} of warm-up, {saves} checkpoint{'s' if saves != 1 else ''}"
    )


def _epochs(epochs: float) -> str:
    """Write a number of epochs with three digits that count.

    >>> _epochs(1.0), _epochs(0.0186451), _epochs(12.3456), _epochs(1234.5)
    ('1 epoch', '0.0186 epochs', '12.3 epochs', '1,234 epochs')
    """
    digits = max(0, 2 - math.floor(math.log10(epochs))) if epochs > 0 else 0
    text = f"{epochs:,.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} epoch{'' if text == '1' else 's'}"
