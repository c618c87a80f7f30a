"""What a disk that fails costs: the save that failed, nothing else, and one sentence."""

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
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


def test_a_real_limit_on_the_size_of_files_costs_the_save_and_nothing_else(small: Any) -> None:
    small.save(1)
    small.update(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match="EFBIG"):
            small.save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert small.steps() == [1] and not list(small.manager.checkpoints.glob(".t*"))
    assert small.new_manager().restore(small.model, small.optimizer).step == 1


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of a quarter of a megabyte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root to mount a file system")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("known", [True, False], ids=["told by statvfs", "met while writing"])
def test_a_volume_that_is_really_full_keeps_every_checkpoint_that_was_saved(
    harness: ModuleType, small_volume: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    small = harness.Small(small_volume)
    if not known:
        monkeypatch.setattr(fs.Backend, "free_bytes", lambda self, path: 10**9)
    step = 0

    with pytest.raises(StorageError, match="no room for a checkpoint" if known else "ENOSPC"):
        for step in range(1, 99):
            small.update(step)
            small.save(step, milestone=True)

    assert step > 2 and small.steps() == list(range(1, step))
    assert not list(small.manager.checkpoints.glob(".t*"))
    assert small.new_manager().restore(small.model, small.optimizer).step == step - 1


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
