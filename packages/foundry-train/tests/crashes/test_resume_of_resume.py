"""A run that is stopped, crashed, damaged and resumed in any order ends as the one that was left alone."""

import contextlib
import logging
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from foundry_train.checkpoint_list import list_checkpoints

STEPS = 12
FILES = ["MANIFEST.json", "model.safetensors", "trainer/optimizer.safetensors", "trainer/state.json"]


class Crash(Exception):
    """The process is gone."""


def machine_for(harness: ModuleType, reference: Any) -> type[RuleBasedStateMachine]:
    variant = harness.Variant(steps=STEPS, save_every=2, milestones=(3, 6, 9))

    class Interrupted(RuleBasedStateMachine):
        """One run, and what happens to it; `safe` are the steps whose full checkpoints must be there."""

        def __init__(self) -> None:
            super().__init__()
            self.root = Path(tempfile.mkdtemp(dir=harness.scratch_root(), prefix="foundry-machine-"))
            self.checkpoints = self.root / "run/checkpoints"
            self.reached = 0

        @initialize()
        def begin(self) -> None:
            harness.train(self.root, variant, stop_at=2)
            self.reached = 2

        @rule(further=st.integers(1, 5))
        def train_on(self, further: int) -> None:
            stop = min(STEPS, self.reached + further)
            harness.train(self.root, variant, stop_at=stop)
            self.reached = max(self.reached, self.newest())

        @rule(steps=st.integers(1, 4))
        def crash_after(self, steps: int) -> None:
            left = [steps]

            def crash(step: int) -> None:
                left[0] -= 1
                if not left[0]:
                    raise Crash

            with contextlib.suppress(Crash):
                harness.train(self.root, variant, on_step=crash)
            self.reached = max(self.reached, self.newest())

        @rule(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
        def damage_the_newest(self, name: str, place: float, bit: int) -> None:
            full = self.full()
            if len(full) < 2:
                return
            content = bytearray((full[-1].path / name).read_bytes())
            content[int(place * len(content))] ^= 1 << bit
            (full[-1].path / name).write_bytes(content)

        @rule(purpose=st.sampled_from(["tmp", "trash"]), step=st.integers(0, STEPS))
        def leave_a_leftover(self, purpose: str, step: int) -> None:
            source = self.full()[0].path
            shutil.copytree(source, self.checkpoints / f".{purpose}-{step:08d}-0123456789ab", dirs_exist_ok=True)

        @invariant()
        def milestones_stay(self) -> None:
            steps = {info.step for info in list_checkpoints(self.checkpoints)}
            shelf = self.checkpoints / ".quarantine"
            aside = {int(path.name[5:13]) for path in shelf.iterdir()} if shelf.is_dir() else set()
            assert {step for step in variant.milestones if step <= self.reached} <= steps | aside

        @invariant()
        def at_most_two_rolling_checkpoints_stay(self) -> None:
            assert len([info for info in self.full() if not info.milestone]) <= 3

        def full(self) -> list[Any]:
            return [info for info in list_checkpoints(self.checkpoints) if info.kind == "full" and not info.problem]

        def newest(self) -> int:
            return max((info.step for info in list_checkpoints(self.checkpoints)), default=0)

        def teardown(self) -> None:
            try:
                harness.train(self.root, variant)
                outcome = harness.outcome_of(self.root)
                assert (outcome.steps, outcome.weights) == (reference.steps, reference.weights)
            finally:
                shutil.rmtree(self.root)

    return Interrupted


@pytest.mark.slow
def test_a_run_interrupted_in_any_way_and_order_ends_as_if_left_alone(harness: ModuleType, fast_path: Path) -> None:
    variant = harness.Variant(steps=STEPS, save_every=2, milestones=(3, 6, 9))
    harness.train(fast_path, variant)
    reference = harness.outcome_of(fast_path)

    logging.disable(logging.WARNING)  # thousands of lines about damage that the machine did itself
    try:
        run_state_machine_as_test(
            machine_for(harness, reference),
            settings=settings(
                max_examples=15, stateful_step_count=7, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
    finally:
        logging.disable(logging.NOTSET)
