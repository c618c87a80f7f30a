"""Resuming at any step gives the bits of the run that was never stopped.

A run of 16 steps saves after every step. From each of its checkpoints everything is restored into a process state that
was spoiled before, and one more step must give the same loss, gradient norm, weights, optimizer state and generators as
the run had; so, step by step, all that follows is the same too. From one checkpoint the run is also trained to its end.
"""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from foundry_train.checkpointing import CheckpointManager
from foundry_train.rng_state import capture_rng
from foundry_train.safetensors_writer import weights_digest
from foundry_train.state import TrainState
from foundry_train.tensor_tree import export_optimizer

STEPS = 16


class Moment(NamedTuple):
    """Everything about a run after a step."""

    loss: str
    norm: str
    weights: str
    optimizer: str
    scaler: str
    generators: str


class Mini:
    """The parts of a miniature run."""

    def __init__(self, harness: ModuleType, variant: Any, root: Path) -> None:
        self.harness, self.variant = harness, variant
        self.manager = CheckpointManager(harness.config_for(variant), root, "commit")
        self.model = harness.make_model(variant)
        self.optimizer = harness.make_optimizer(variant, self.model)
        self.scaler = torch.amp.GradScaler(
            "cpu", enabled=variant.precision == "fp16", init_scale=2.0**20, growth_interval=3
        )

    def step(self, step: int) -> Moment:
        loss, norm = self.harness.update(self.model, self.optimizer, self.scaler, self.variant, step)
        random.random()
        np.random.random()
        tree = export_optimizer(self.model, self.optimizer)
        generators = capture_rng()
        return Moment(
            loss.hex(),
            norm.hex(),  # not finite where the scaled gradient overflows, as it does in the first steps of fp16
            weights_digest(dict(self.model.state_dict())),
            weights_digest(tree.tensors) + str(tree.members),
            str(self.scaler.state_dict()),
            str(generators.plain) + weights_digest(generators.tensors),
        )

    def save(self, step: int) -> None:
        details = {"global_step": step, "state": TrainState(step=step), "scaler": self.scaler}
        self.manager.save_async(self.model, None, self.optimizer, **details)


def spoil(mini: Mini) -> None:
    """Leave nothing of an earlier state that a resume could profit from."""
    with torch.no_grad():
        for parameter in mini.model.parameters():
            parameter.fill_(float("nan"))
    torch.manual_seed(987)
    random.seed(987)
    np.random.seed(987)


def check_every_step(harness: ModuleType, variant: Any, root: Path) -> int:
    mini = Mini(harness, variant, root)
    moments = {}
    for step in range(1, STEPS + 1):
        moments[step] = mini.step(step)
        mini.save(step)
    mini.manager.wait()
    mini.manager.raise_pending()

    for start in range(1, STEPS):
        again = Mini(harness, variant, root)
        spoil(again)
        state = again.manager.restore(again.model, again.optimizer, again.scaler, step=start)
        last = STEPS if start == 5 else start + 1
        for step in range(state.step + 1, last + 1):
            assert again.step(step) == moments[step], f"step {step} after a resume at {start}"
    return STEPS - 1


VARIANTS = list(itertools.product([0.0, 0.1], [1, 3], ["fp32", "bf16", "fp16"], [False, True]))


@pytest.mark.slow
def test_resume_at_every_step_is_exact_whatever_the_precision_dropout_and_accumulation(
    harness: ModuleType, fast_path: Path, tell: Callable[[str], None]
) -> None:
    resumes = 0
    for number, (dropout, accumulation, precision, background) in enumerate(VARIANTS):
        variant = harness.Variant(
            dropout=dropout, accumulation=accumulation, precision=precision, background=background, keep=STEPS
        )
        resumes += check_every_step(harness, variant, fast_path / str(number))

    tell(f"resume at every step: {resumes} resumes of {len(VARIANTS)} miniature variants, all bit-equal")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adafactor"])
def test_resume_at_every_step_is_exact_with_every_optimizer(
    harness: ModuleType, fast_path: Path, optimizer: str
) -> None:
    assert check_every_step(harness, harness.Variant(optimizer=optimizer, keep=STEPS), fast_path) == STEPS - 1


def test_resume_without_the_generators_would_not_be_exact(harness: ModuleType, fast_path: Path) -> None:
    mini = Mini(harness, harness.PLAIN, fast_path)
    mini.step(1)
    mini.save(1)
    expected = mini.step(2)

    mini.manager.restore(mini.model, mini.optimizer, step=1)
    torch.manual_seed(5)

    assert mini.step(2).loss != expected.loss
