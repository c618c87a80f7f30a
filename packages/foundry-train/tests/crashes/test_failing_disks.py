"""What a disk that fails costs: the save that failed, nothing else, and one sentence."""

import errno
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from foundry_config.errors import StorageError
from foundry_data import fs
from foundry_train.checkpointing import CheckpointManager


def test_the_error_of_an_asynchronous_milestone_surfaces_once_at_the_next_question(
    harness: ModuleType, background: Any
) -> None:
    with fs.using(harness.FailingDisk("fsync", errno.ENOSPC)):
        background.save_async(1, milestone=True)
        background.manager.wait()

        with pytest.raises(StorageError, match="No space left on device"):
            background.manager.raise_pending()
    background.manager.raise_pending()
    assert background.manager.durable_step is None


def test_rolling_saves_may_fail_twice_in_a_row_but_not_three_times(
    harness: ModuleType, background: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with fs.using(harness.FailingDisk("open_new", errno.ENOSPC)):
        for step in (1, 2):
            background.save_async(step)
            background.manager.wait()
            background.manager.raise_pending()
        assert "step 2 was not saved" in caplog.text
        background.save_async(3)
        background.manager.wait()
        with pytest.raises(StorageError):
            background.manager.raise_pending()

    background.save_async(4)
    background.manager.wait()
    background.manager.raise_pending()
    assert background.manager.durable_step == 4


def test_a_failed_sync_writes_everything_again_to_new_files(harness: ModuleType, small: Any) -> None:
    with fs.using(harness.FailingDisk("fsync", errno.EIO, times=1)), fs.using(Recording(fs.backend())) as seen:
        small.save(1)

    folders = {path.parts[-2] for path in seen.opened if ".tmp-" in str(path) and path.name == "model.safetensors"}
    assert small.steps() == [1]
    assert len({part for path in seen.opened for part in path.parts if part.startswith(".tmp-")}) == 2
    assert len(folders) == 1


class Recording(fs.Backend):
    """Passes everything on to another disk and remembers the files that were made."""

    def __init__(self, inner: fs.Backend) -> None:
        self.inner = inner
        self.opened: list[Path] = []

    def open_new(self, path: Path) -> int:
        self.opened.append(path)
        return self.inner.open_new(path)

    def fsync(self, fd: int) -> None:
        self.inner.fsync(fd)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("operation", ["open_new", "allocate", "write", "fsync", "mkdir", "fsync_directory"])
def test_a_disk_that_refuses_leaves_the_checkpoint_before_and_no_leftover(
    harness: ModuleType, small: Any, operation: str, code: int
) -> None:
    small.save(1)
    small.update(1)

    with pytest.raises(StorageError) as raised, fs.using(harness.FailingDisk(operation, code)):
        small.save(2)

    assert raised.value.exit_code == 7
    assert errno.errorcode[code] in str(raised.value) and str(small.root) in str(raised.value)
    assert small.steps() == [1]
    assert not list(small.manager.checkpoints.glob(".t*"))
    assert small.new_manager().restore(small.model, small.optimizer).step == 1


def test_too_little_room_is_known_before_anything_is_written(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small.save(1)
    monkeypatch.setattr(fs.Backend, "free_bytes", lambda self, path: 1000)

    with pytest.raises(StorageError, match=r"no room for a checkpoint in .*: 0\.0\d+ MB needed, 0\.001 MB free"):
        small.save(2)

    assert small.steps() == [1]


def test_bytes_that_read_back_differently_do_not_count_as_saved(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small.manager.config
    training = msgspec.structs.replace(config.training, verify_after_write=True)
    small.manager = CheckpointManager(msgspec.structs.replace(config, training=training), small.root, "c")
    small.save(1)
    monkeypatch.setattr(fs, "sha256_file", lambda path: "0" * 64)

    with pytest.raises(StorageError, match="the disk gave back other bytes than were written"):
        small.save(2)

    assert small.steps() == [1]


def test_a_full_disk_while_quarantining_does_not_stop_the_recovery(
    harness: ModuleType, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    small.save(1)
    small.update(1)
    (small.save(2) / "model.safetensors").write_bytes(b"damaged")

    with fs.using(harness.FailingDisk("rename", errno.EROFS)):
        assert small.manager.restore(small.model, small.optimizer).step == 1

    assert "could not be moved away" in caplog.text


def test_retention_that_fails_is_a_warning(harness: ModuleType, small: Any, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        small.update(step)
        small.save(step)
    small.update(3)

    with fs.using(harness.FailingDisk("unlink", errno.EIO)):
        small.save(3)

    assert "step-00000001 could not be removed" in caplog.text
    small.manager.clean_up()
    assert small.steps() == [2, 3] and not list(small.manager.checkpoints.glob(".t*"))
