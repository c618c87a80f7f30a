"""Stages are whole or not there, digests are remembered only while they are right, chunks lose nothing."""

import hashlib
import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import DataError, StorageError
from foundry_data import digests, stages
from foundry_data.chunking import chunk_stream
from foundry_data.digests import DigestCache
from foundry_data.readers import list_sources
from foundry_data.sources import SourceFile
from foundry_data.stages import building_folder, building_lock, publish, remove_trash, start_building, storage_errors


@pytest.mark.slow
@given(st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=9), st.integers(1, 16))
def test_chunks_keep_every_token_in_order_except_the_last_remainder(documents, chunk_size):
    chunks = list(chunk_stream([np.array(d, dtype=np.int64) for d in documents], chunk_size))

    stream = [token for document in documents for token in document]
    assert [t for c in chunks for t in c.tolist()] == stream[: len(stream) // chunk_size * chunk_size]
    assert all(len(chunk) == chunk_size for chunk in chunks)


def test_a_chunk_size_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        list(chunk_stream([], 0))


def test_publishing_replaces_what_was_there(tmp_path):
    target = tmp_path / "stage"
    for text in ("old", "new"):
        building = start_building(target)
        (building / "file").write_text(text)
        publish(building, target)

    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_a_new_building_starts_empty(tmp_path):
    (start_building(tmp_path / "stage") / "left-over").write_text("x")

    assert list(start_building(tmp_path / "stage").iterdir()) == []
    assert building_folder(tmp_path / "stage").is_dir()


def test_trash_of_a_process_that_died_is_removed(tmp_path):
    trash = tmp_path / ".stage.0123.trash"
    (trash / "deep").mkdir(parents=True)
    (tmp_path / "stage").mkdir()

    remove_trash(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_only_one_thread_builds_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "POLL_SECONDS", 0.001)
    inside, waited = [], threading.Event()

    def build():
        with building_lock(tmp_path / "stage", waiting=waited.set):
            inside.append(1)

    with building_lock(tmp_path / "stage"):
        thread = threading.Thread(target=build)
        thread.start()
        assert waited.wait(timeout=30)
        assert inside == []
    thread.join()

    assert inside == [1]


def test_what_waiting_raises_ends_the_wait_and_frees_nothing_of_the_other(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with building_lock(tmp_path / "stage"):
        with pytest.raises(KeyboardInterrupt), building_lock(tmp_path / "stage", waiting=stop):
            raise AssertionError("two builders")
        with pytest.raises(KeyboardInterrupt), building_lock(tmp_path / "stage", waiting=stop):
            raise AssertionError("two builders")


def test_an_error_of_the_disk_says_file_reason_and_room(tmp_path):
    with (
        pytest.raises(StorageError, match=r"cannot write .*x: No space left .*ENOSPC.*bytes are free in"),
        storage_errors(tmp_path),
    ):
        raise OSError(28, os.strerror(28), str(tmp_path / "x"))


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Two files at rest: seen ten seconds after they were written."""
    now = time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: now() + 10**10)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("a.txt", "longer.txt"):  # files of one size would be hashed to find duplicates
        path = folder / name
        path.write_text(f"text of {name}")
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return folder


def set_back(path):
    """Set the modification time as `cp -p` and `touch -r` do; clocks of file systems tick slowly."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        os.utime(path, (1_600_000_000, 1_600_000_000))


def test_a_remembered_digest_saves_the_reading(corpus, tmp_path, mocker):
    cache = DigestCache(tmp_path / "digests.json")
    first = cache.fingerprint(list_sources(corpus))
    digest = mocker.patch.object(SourceFile, "digest", side_effect=AssertionError("was read"))

    assert DigestCache(tmp_path / "digests.json").fingerprint(list_sources(corpus)) == first
    digest.assert_not_called()


def test_a_file_whose_name_is_no_utf8_is_remembered_too(corpus, tmp_path, mocker):
    (corpus / "a.txt").rename(corpus / os.fsdecode(b"\xe9.txt"))
    first = DigestCache(tmp_path / "digests.json").fingerprint(list_sources(corpus))
    digest = mocker.patch.object(SourceFile, "digest", side_effect=AssertionError("was read"))

    assert DigestCache(tmp_path / "digests.json").fingerprint(list_sources(corpus)) == first
    digest.assert_not_called()


@pytest.mark.parametrize("name", ["tokens.bin", "TOKENS.BIN", "text.zst", "text.jsonl.gz", "no suffix"])
def test_files_of_every_name_are_hashed(tmp_path, name):
    (tmp_path / name).write_bytes(b"content")

    assert DigestCache(None).sha256([tmp_path / name]) == [hashlib.sha256(b"content").hexdigest()]


def test_what_is_no_regular_file_is_refused_by_name(tmp_path):
    (tmp_path / "tokens.bin").mkdir()

    with pytest.raises(DataError, match=r"tokens\.bin is no regular file"):
        DigestCache(None).sha256([tmp_path / "tokens.bin"])


def test_a_file_that_was_just_written_is_not_remembered(corpus, tmp_path, monkeypatch):
    monkeypatch.undo()
    DigestCache(tmp_path / "digests.json").fingerprint(list_sources(corpus))

    assert not (tmp_path / "digests.json").exists()


@pytest.mark.parametrize("change", ["content", "time", "replaced", "content with its time set back"])
def test_a_file_that_may_have_changed_is_read_again(corpus, tmp_path, change):
    cache = DigestCache(tmp_path / "digests.json")
    first = cache.fingerprint(list_sources(corpus))
    path = corpus / "a.txt"
    if change == "replaced":  # another inode with the times and size of the old one
        (corpus / "c").write_text("TEXT of a.txt")
        (corpus / "c").rename(path)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    elif change.startswith("content"):
        path.write_text("TEXT of a.txt")
        if change != "content":
            set_back(path)
    else:
        os.utime(path, (1_600_000_001, 1_600_000_001))

    after = cache.fingerprint(list_sources(corpus))

    assert (after == first) == (change == "time")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"x": {"size": 1}}'])
def test_a_damaged_cache_is_no_cache(corpus, tmp_path, content):
    (tmp_path / "digests.json").write_bytes(content)

    assert DigestCache(tmp_path / "digests.json").fingerprint(list_sources(corpus)) == DigestCache(None).fingerprint(
        list_sources(corpus)
    )
