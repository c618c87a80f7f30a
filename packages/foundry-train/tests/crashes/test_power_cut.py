"""A checkpoint whose save has returned is never lost by a power cut: every state that one can leave is tried."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from foundry_config.errors import CheckpointError
from foundry_data import fs
from foundry_data.fs_faults import Operation, Tracing
from foundry_train.checkpointing import CheckpointManager
from foundry_train.safetensors_writer import weights_digest
from foundry_train.state import TrainState


class Traced:
    """The operations of a real series of saves, and the weights of each step."""

    def __init__(self, harness: ModuleType, root: Path) -> None:
        self.harness = harness
        self.variant = harness.PLAIN
        self.folder = root / "run/checkpoints"
        self.digests: dict[int, str] = {}
        manager = self.manager(root)
        model = harness.make_model(self.variant)
        optimizer = harness.make_optimizer(self.variant, model)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        fs.make_directories(self.folder)
        with fs.using(Tracing()) as trace:
            for step in range(1, 5):
                harness.update(model, optimizer, scaler, self.variant, step)
                state = TrainState(step=step)
                manager.save_checkpoint(model, None, optimizer, global_step=step, state=state)
                if step == 2:  # replaces the checkpoint by one that is a milestone too
                    manager.save_checkpoint(
                        model, None, optimizer, global_step=2, state=state, label="m", kind="weights"
                    )
                trace.operations.append(Operation("mark", str(step)))
                self.digests[step] = weights_digest(dict(model.state_dict()))
        self.operations = trace.operations

    def manager(self, root: Path) -> CheckpointManager:
        return CheckpointManager(self.harness.config_for(self.variant), root, "commit")

    def recover(self, root: Path) -> int:
        """Start after the power cut; returns the step that training would go on from, 0 if none."""
        manager = self.manager(root)
        manager.clean_up()
        model = self.harness.make_model(self.variant)
        try:
            state = manager.restore(model, self.harness.make_optimizer(self.variant, model))
        except CheckpointError:
            return 0
        assert weights_digest(dict(model.state_dict())) == self.digests[state.step], "damaged weights were accepted"
        return state.step


@pytest.fixture(scope="module")
def traced(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return Traced(harness, tmp_path_factory.mktemp("traced"))


@pytest.mark.slow
def test_no_power_cut_loses_a_checkpoint_whose_save_had_returned(
    traced: Traced, power_cut: ModuleType, fast_path: Path, tell: Callable[[str], None]
) -> None:
    seen, tried, lost = 0, 0, []
    for state in distinct(power_cut.power_cuts(traced.operations, traced.folder)):
        seen, fresh = seen + 1, state[1]
        if fresh is None:
            continue
        tried += 1
        recovered = recover_from(traced, fresh, fast_path / str(tried))
        if recovered < fresh.committed:
            lost.append((fresh.after, fresh.committed, recovered))

    tell(f"power cut: {seen} states, {tried} different to recovery, {len(lost)} lose a committed checkpoint")
    assert lost == []
    assert seen > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["fsync", "fsync_directory"])
def test_leaving_out_a_kind_of_fsync_loses_checkpoints(
    traced: Traced, power_cut: ModuleType, fast_path: Path, left_out: str
) -> None:
    weaker = [operation for operation in traced.operations if operation.name != left_out]

    assert any(
        recover_from(traced, state, fast_path / str(number)) < state.committed
        for number, (_, state) in enumerate(distinct(around_marks(power_cut, weaker, traced.folder)))
        if state is not None
    )


def around_marks(power_cut: ModuleType, operations: Sequence[Operation], folder: Path) -> Iterator[Any]:
    """Only the states right after the first save returned: without syncs there are too many of all."""
    first = next(index for index, operation in enumerate(operations) if operation.name == "mark")
    return (state for state in power_cut.power_cuts(operations[: first + 1], folder) if state.committed > 0)


def distinct(states: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    """Pair each state with itself if recovery could tell it from all before, else with None."""
    known: set[Any] = set()
    for number, state in enumerate(states):
        files = tuple(sorted(item for item in state.files.items() if item[0].startswith(("step-", ".old-"))))
        key = (state.committed, state.folders, files)  # bytes remember their hash, so this is cheap
        yield number, None if key in known else state
        known.add(key)


def recover_from(traced: Traced, state: Any, root: Path) -> int:
    folder = root / "run/checkpoints"
    folder.mkdir(parents=True)
    for path in sorted(state.folders):
        (folder / path).mkdir()
    for path, data in state.files.items():
        (folder / path).write_bytes(data)
    try:
        return traced.recover(root)
    finally:
        shutil.rmtree(root)
