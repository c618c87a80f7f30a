"""Room is asked for before it is needed, and a snapshot is what the state was."""

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from foundry_config.errors import StorageError
from foundry_data import fs
from foundry_train.side_work import WORTH_A_THREAD, start_beside
from foundry_train.snapshot import BackgroundWriter, SnapshotBuffers, on_cpu
from foundry_train.space import CheckpointSizes, check_space, checkpoint_sizes, free_bytes, gigabytes, storage_error


def test_sizes_are_known_before_the_optimizer_holds_anything() -> None:
    model = nn.Linear(1000, 100, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())

    before = checkpoint_sizes(model, optimizer)
    model(torch.ones(1, 1000)).sum().backward()
    optimizer.step()
    after = checkpoint_sizes(model, optimizer)

    assert before == (400_000, 1_200_000)
    assert after.full - before.full == 4  # the step count


def test_a_schedule_that_does_not_fit_is_refused_with_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fs.Backend, "free_bytes", lambda self, path: 3_200_000_000)
    sizes = CheckpointSizes(weights=500_000_000, full=1_490_000_000)

    with pytest.raises(StorageError) as raised:
        check_space(tmp_path / "not/yet", sizes, milestones=12, milestone_kind="weights", full=3, steps=100_000)

    assert raised.value.exit_code == 7
    assert "12 milestones x 0.50 GB + 3 full x 1.49 GB + 0.05 GB of metrics = 10.52 GB needed, 3.20 GB free" in str(
        raised.value
    )


def test_a_schedule_that_fits_says_what_it_needs(tmp_path: Path) -> None:
    sizes = CheckpointSizes(weights=10, full=30)

    weights = check_space(tmp_path, sizes, milestones=4, milestone_kind="weights", full=3, steps=1)
    full = check_space(tmp_path, sizes, milestones=4, milestone_kind="full", full=3, steps=1)

    assert full - weights == 80


def test_a_volume_that_does_not_answer_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: fs.Backend, path: Path) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fs.Backend, "free_bytes", gone)
    with pytest.raises(StorageError, match="EIO"):
        free_bytes(tmp_path)
    error = storage_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path, needed=2_000_000)
    assert "2.000 MB needed, unknown free" in str(error)


def test_sizes_are_said_in_a_unit_that_fits() -> None:
    assert gigabytes(1_490_000_000) == "1.49 GB"
    assert gigabytes(1234) == "0.001 MB"


def test_a_snapshot_does_not_follow_its_original_and_its_memory_is_used_again() -> None:
    buffers, weight = SnapshotBuffers(), torch.ones(4)

    first = buffers.copy({"w": weight})["w"]
    address = first.data_ptr()
    weight.fill_(5.0)
    assert first.tolist() == [1.0] * 4
    buffers.copy({"other": torch.zeros(1)})
    second = buffers.copy({"w": weight})["w"]

    assert second.data_ptr() == address
    assert second.tolist() == [5.0] * 4
    assert buffers.copy({"w": torch.ones(3)})["w"].shape == (3,)


def test_a_save_that_blocks_uses_tensors_on_the_cpu_in_place() -> None:
    weight = nn.Parameter(torch.ones(2))

    assert on_cpu({"w": weight})["w"].data_ptr() == weight.data_ptr()


def test_a_background_job_that_fails_says_so_once() -> None:
    writer = BackgroundWriter()
    writer.wait()
    writer.start(lambda: 1 // 0)
    writer.wait()

    assert not writer.busy
    with pytest.raises(ZeroDivisionError):
        writer.raise_pending()
    writer.raise_pending()


@pytest.mark.parametrize("size", [0, WORTH_A_THREAD])
def test_side_work_is_done_once_and_its_error_is_raised_at_the_wait(size: int) -> None:
    calls = []
    wait = start_beside(lambda: calls.append(1) or 7, size=size)
    fail = start_beside(lambda: 1 // 0, size=size)

    assert (wait(), wait(), calls) == (7, 7, [1])
    with pytest.raises(ZeroDivisionError):
        fail()
