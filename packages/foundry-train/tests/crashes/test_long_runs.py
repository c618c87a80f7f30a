"""Saving three hundred times leaves memory, descriptors and threads as they were."""

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from foundry_train.checkpointing import CheckpointManager
from foundry_train.state import TrainState

SAVES = 300


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_descriptors_and_threads_stay_flat_over_three_hundred_saves(
    harness: ModuleType, fast_path: Path, tell: Callable[[str], None]
) -> None:
    variant = harness.Variant(background=True)
    manager = CheckpointManager(harness.config_for(variant), fast_path, "commit")
    model = harness.make_model(variant)
    optimizer = harness.make_optimizer(variant, model)

    def save(steps: range) -> None:
        for step in steps:
            model[0].weight.data += 1e-3
            manager.save_async(model, None, optimizer, global_step=step, state=TrainState(step=step))
        manager.wait()
        manager.raise_pending()
        gc.collect()

    save(range(1, 51))
    before = resident_bytes(), open_files(), threading.active_count()
    save(range(51, SAVES + 1))
    after = resident_bytes(), open_files(), threading.active_count()

    grown = after[0] - before[0]
    descriptors, threads = after[1] - before[1], after[2] - before[2]
    tell(f"{SAVES} saves: {grown / 1e6:+.1f} MB resident, {descriptors:+d} descriptors, {threads:+d} threads")
    assert grown < 8e6
    assert after[1:] == before[1:]
    assert [info.step for info in manager.list()] == [SAVES - 1, SAVES]
