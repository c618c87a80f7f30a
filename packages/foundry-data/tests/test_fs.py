"""What every write promises: whole or not at all, new files only, errors passed on, modes by umask."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_data import fs
from foundry_data.fs_faults import FaultInjecting, Tracing


class Dribbling(fs.Backend):
    """A disk that takes three bytes at a time."""

    def write(self, fd: int, data: memoryview) -> int:
        return super().write(fd, data[:3])


class Failing(fs.Backend):
    """A disk on which one kind of operation fails."""

    def __init__(self, name: str, code: int) -> None:
        def fail(*arguments: object) -> None:
            raise OSError(code, os.strerror(code))

        setattr(self, name, fail)


@pytest.mark.slow
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_write_new_writes_all_chunks_and_returns_their_hash_however_little_the_disk_takes(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("fs") / "file"
    whole = b"".join(chunks)

    with fs.using(Dribbling()):
        written = fs.write_new(path, chunks, size=len(whole))

    assert path.read_bytes() == whole
    assert written == (len(whole), hashlib.sha256(whole).hexdigest())


def test_write_new_refuses_a_file_that_exists_and_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")

    with pytest.raises(FileExistsError):
        fs.write_new(tmp_path / "file", [b"new"])

    assert (tmp_path / "file").read_bytes() == b"old"


def test_write_new_never_follows_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "canary")

    with pytest.raises(OSError):
        fs.write_new(tmp_path / "link", [b"x"])

    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("umask", [0o022, 0o007])
def test_new_files_have_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        fs.write_new(tmp_path / "file", [b"x"])
    finally:
        os.umask(before)

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("operation", ["write", "fsync", "rename", "open_new"])
def test_write_atomic_leaves_the_old_content_and_no_leftover_when_the_disk_fails(
    tmp_path: Path, operation: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")

    with pytest.raises(OSError) as raised, fs.using(Failing(operation, errno.EIO)):
        fs.write_atomic(tmp_path / "file", b"new")

    assert raised.value.errno == errno.EIO
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_write_atomic_syncs_the_data_before_the_rename_and_the_folder_after_it(tmp_path: Path) -> None:
    with fs.using(Tracing()) as trace:
        fs.write_atomic(tmp_path / "file", b"new")

    names = [operation.name for operation in trace.operations]
    assert names == ["open_new", "write", "fsync", "close", "rename", "fsync_directory"]


def test_appended_lines_follow_each_other_and_the_durable_one_is_synced(tmp_path: Path) -> None:
    with fs.using(Tracing()) as trace:
        fs.append_line(tmp_path / "log", b"one\n")
        fs.append_durable_line(tmp_path / "log", b"two\n")
        fs.sync_file(tmp_path / "log")

    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert [operation.name for operation in trace.operations].count("fsync") == 2


def test_make_directories_makes_every_missing_parent_durable(tmp_path: Path) -> None:
    with fs.using(Tracing()) as trace:
        fs.make_directories(tmp_path / "a/b")
        fs.make_directories(tmp_path / "a/b")

    assert [(operation.name, Path(operation.path).name) for operation in trace.operations] == [
        ("mkdir", "a"),
        ("fsync_directory", tmp_path.name),
        ("mkdir", "b"),
        ("fsync_directory", "a"),
    ]


def test_remove_tree_removes_links_but_not_what_they_point_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/canary").write_bytes(b"x")
    (tmp_path / "tree/inner").mkdir(parents=True)
    (tmp_path / "tree/inner/link").symlink_to(tmp_path / "outside", target_is_directory=True)

    fs.remove_tree(tmp_path / "tree")

    assert not (tmp_path / "tree").exists()
    assert (tmp_path / "outside/canary").exists()


def test_the_backend_is_put_back_after_an_error() -> None:
    before = fs.backend()

    with pytest.raises(RuntimeError), fs.using(Dribbling()):
        raise RuntimeError

    assert fs.backend() is before


def test_free_bytes_and_hashes_are_those_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")

    assert fs.backend().free_bytes(tmp_path) > 0
    assert fs.sha256_file(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()


def test_fault_injection_counts_every_operation_that_tracing_sees(tmp_path: Path) -> None:
    with fs.using(Tracing()) as trace:
        exercise(tmp_path / "a")
    with fs.using(FaultInjecting(None)) as counter:
        exercise(tmp_path / "b")

    assert [operation.name for operation in trace.operations] == counter.names
    assert len(set(counter.names)) == 15


@pytest.mark.parametrize(("mode", "code"), [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
def test_every_operation_can_be_made_to_fail_and_only_that_one(tmp_path: Path, mode: str, code: int) -> None:
    with fs.using(FaultInjecting(None)) as counter:
        exercise(tmp_path / "count")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    for at in range(1, counter.count + 1):
        with pytest.raises(OSError) as raised, fs.using(FaultInjecting(at, mode)):  # type: ignore[arg-type]
            exercise(tmp_path / f"at-{at}")
        assert raised.value.errno == code

    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "content"), [("before", b""), ("torn", b"ab"), ("after", b"abcd")])
def test_a_kill_leaves_none_half_or_all_of_a_write(tmp_path: Path, mode: str, content: bytes) -> None:
    child = os.fork()
    if child == 0:
        with fs.using(FaultInjecting(2, mode)):  # type: ignore[arg-type]
            fs.write_new(tmp_path / "file", [b"abcd"])
        os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert (tmp_path / "file").read_bytes() == content


def exercise(folder: Path) -> None:
    """Use every operation once or more; close what was opened, whatever happens."""
    fs.make_directories(folder)
    fs.write_new(folder / "new", [b"abcd"], size=4)
    fs.append_line(folder / "log", b"line\n")
    disk = fs.backend()
    disk.close(disk.open_lock(folder / "lock"))
    disk.truncate(folder / "log", 2)
    disk.rename(folder / "new", folder / "moved")
    disk.symlink("moved", folder / "link")
    disk.free_bytes(folder)
    fs.remove_tree(folder)
