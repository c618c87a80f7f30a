"""Saving three hundred times leaves memory, descriptors and threads as they were."""

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from foundry_train.checkpointing import CheckpointManager
from foundry_train.state import TrainState

SAVES = 300
WARM_UP = 50


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
    model = torch.nn.Sequential(torch.nn.Linear(128, 128))  # large enough that a leak would show
    optimizer = harness.make_optimizer(variant, model)

    def save(steps: range) -> None:
        for step in steps:
            model(torch.ones(1, 128)).sum().backward()
            for member in optimizer.optimizers:
                member.step()
            manager.save_async(model, None, optimizer, global_step=step, state=TrainState(step=step))
        manager.wait()
        manager.raise_pending()
        gc.collect()

    save(range(1, WARM_UP + 1))
    before = resident_bytes(), open_files(), threading.active_count()
    save(range(WARM_UP + 1, SAVES + 1))
    after = resident_bytes(), open_files(), threading.active_count()

    grown = after[0] - before[0]
    descriptors, threads = after[1] - before[1], after[2] - before[2]
    tell(f"{SAVES} saves: {grown / 1e6:+.1f} MB resident, {descriptors:+d} descriptors, {threads:+d} threads")
    state_bytes = 3 * sum(parameter.nbytes for parameter in model.parameters())  # with the two moments of AdamW
    assert grown < (SAVES - WARM_UP) * state_bytes / 2, "as much as half of every state that was saved"
    assert after[1:] == before[1:]
    assert [info.step for info in manager.list()] == [SAVES - 1, SAVES]
