"""Building a store: resumable, the same bytes however it is made, whole or not there at all."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_config.errors import DataError, StorageError
from foundry_data import encoding, fs, stages
from foundry_data.stages import building_folder
from foundry_data.store import ChunkStore
from foundry_data.store_build import Part, build_store, merge_stores

DOCUMENTS = [f"document {i} the cat sat on a mat, " + "and on " * (i % 7) for i in range(60)]


@pytest.fixture(scope="module", autouse=True)
def small_blocks(unsynced):
    """Cut so small a corpus into many blocks, as a large one would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "BATCH_CHARACTERS", 200)
        yield


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def expected(unigram, small_blocks, tmp_path_factory):
    """The files of a store that was made in one go."""
    folder = tmp_path_factory.mktemp("expected") / "store"
    return content(build_store(DOCUMENTS, unigram, folder, shard_tokens=100, source="s").folder)


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_bytes_are_the_same_for_any_number_of_threads(unigram, tmp_path, expected, threads):
    store = build_store(DOCUMENTS, unigram, tmp_path / "s", shard_tokens=100, source="s", num_threads=threads)

    assert content(store.folder) == expected


@pytest.mark.parametrize("blocks", [1, 2, 5, 9])
@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupted_build_goes_on_at_the_last_finished_file(unigram, tmp_path, expected, blocks, threads):
    calls = []

    def interrupt(done):
        calls.append(done)
        if len(calls) == blocks:
            raise Interrupt

    target = tmp_path / "s"
    options = {"shard_tokens": 100, "source": "s", "num_threads": threads}
    with pytest.raises(Interrupt):
        build_store(DOCUMENTS, unigram, target, progress=interrupt, **options)
    assert not target.exists()
    assert list(building_folder(target).glob("record-*.json"))

    seen = []
    store = build_store(DOCUMENTS, unigram, target, progress=seen.append, **options)

    assert content(store.folder) == expected
    # A block that was only partly in finished files is made again; the blocks before it are not.
    assert blocks == 1 or seen[-1] < sum(map(len, DOCUMENTS))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_interruptions_at_any_block_and_any_file_size_change_no_byte(unigram, tmp_path_factory, monkeypatch, data):
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", data.draw(st.integers(1, 400)))
    options = {"shard_tokens": data.draw(st.integers(15, 200)), "source": "s", "add_bos": data.draw(st.booleans())}
    documents = DOCUMENTS[: data.draw(st.integers(0, 8))]
    folder = tmp_path_factory.mktemp("b")
    whole = content(build_store(documents, unigram, folder / "whole", **options).folder)

    target = folder / "again"
    for stop in data.draw(st.lists(st.integers(1, 12), max_size=3)):
        left = [stop]

        def interrupt(done, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise Interrupt

        try:
            build_store(documents, unigram, target, progress=interrupt, **options)
            break
        except Interrupt:
            continue

    assert content(build_store(documents, unigram, target, **options).folder) == whole


@pytest.mark.slow
@given(number=st.integers(1, 5), documents=st.integers(0, 30))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_join_to_the_bytes_of_the_whole(unigram, tmp_path_factory, number, documents):
    folder = tmp_path_factory.mktemp("p")
    whole = build_store(DOCUMENTS[:documents], unigram, folder / "whole", shard_tokens=70)
    parts = [
        build_store(DOCUMENTS[:documents], unigram, folder / f"part-{i}", part=Part(i, number)).folder
        for i in range(1, number + 1)
    ]

    merged = merge_stores(parts[::-1], folder / "merged", shard_tokens=70)

    assert content(merged.folder) == content(whole.folder)


def test_parts_that_do_not_belong_together_are_named(unigram, tmp_path):
    def part(i, n, **options):
        return build_store(DOCUMENTS, unigram, tmp_path / f"{i}-{n}-{len(options)}", part=Part(i, n), **options).folder

    one, two, other = part(1, 2), part(2, 2), part(2, 2, add_bos=True)
    whole = build_store(DOCUMENTS, unigram, tmp_path / "whole").folder

    for parts, message in [
        ([], "no parts"),
        ([one], "part 2 of 2 is missing .*--shard 2/2"),
        ([part(3, 4)], "parts 1, 2, 4 of 4 are missing .*--shard 1/4"),
        ([one, part(2, 3)], "2-3-0 is part 2 of 3, but .*1-2-0 is one of 2 parts"),
        ([one, one], "are both part 1 of 2"),
        ([one, other], "other inputs: add_bos differs"),
        ([one, whole], "is a whole store"),
    ]:
        with pytest.raises(DataError, match=message):
            merge_stores(parts, tmp_path / "merged")
    assert len(merge_stores([one, two], tmp_path / "merged")) == len(ChunkStore.open(whole))


def test_a_part_with_a_flipped_bit_is_named_and_nothing_is_merged(unigram, tmp_path):
    one, two = (build_store(DOCUMENTS, unigram, tmp_path / str(i), part=Part(i, 2)).folder for i in (1, 2))
    content = bytearray((two / "words-00000.bin").read_bytes())
    content[0] ^= 1
    (two / "words-00000.bin").write_bytes(content)

    with pytest.raises(DataError, match=rf"{two} is damaged: words-00000\.bin differs from what was written"):
        merge_stores([one, two], tmp_path / "merged")

    assert not (tmp_path / "merged").exists()


def test_a_store_from_the_same_inputs_is_opened_and_not_made_again(unigram, tmp_path):
    first = build_store(DOCUMENTS, unigram, tmp_path / "s", source="s")

    def never():
        raise AssertionError("documents were read again")
        yield

    again = build_store(never(), unigram, tmp_path / "s", source="s", shard_tokens=50)

    assert again.manifest == first.manifest


@pytest.mark.parametrize("options", [{"source": "other"}, {"source": "s", "add_bos": True}, {}])
def test_a_store_from_other_or_unknown_inputs_is_not_overwritten(unigram, tmp_path, options):
    build_store(DOCUMENTS, unigram, tmp_path / "s", source="s")

    with pytest.raises(DataError, match="other inputs"):
        build_store(DOCUMENTS[:3], unigram, tmp_path / "s", **options)

    replaced = build_store(DOCUMENTS[:3], unigram, tmp_path / "s", replace=True, **options)
    assert replaced.manifest.documents == 3


@pytest.mark.slow
def test_an_unfinished_build_of_other_inputs_is_not_continued(unigram, tmp_path):
    def interrupt(done):
        raise Interrupt

    with pytest.raises(Interrupt):
        build_store(["zebra " * 99] * 9, unigram, tmp_path / "s", source="old", shard_tokens=10, progress=interrupt)

    store = build_store(DOCUMENTS, unigram, tmp_path / "s", source="new", shard_tokens=10)

    assert store.manifest.words == sum(len(d.split()) for d in DOCUMENTS)


@pytest.mark.parametrize("damage", ["record", "tokens", "missing"])
def test_a_damaged_file_of_an_unfinished_build_is_made_again(unigram, tmp_path, expected, damage):
    calls = []

    def interrupt(done):
        calls.append(done)
        if len(calls) == 9:
            raise Interrupt

    target = tmp_path / "s"
    options = {"shard_tokens": 100, "source": "s"}
    with pytest.raises(Interrupt):
        build_store(DOCUMENTS, unigram, target, progress=interrupt, **options)
    building = building_folder(target)
    if damage == "record":
        (building / "record-00001.json").write_bytes(b"{")
    elif damage == "tokens":
        path = building / "tokens-00001.bin"
        path.write_bytes(path.read_bytes()[::-1])
    else:
        (building / "words-00000.bin").unlink()

    assert content(build_store(DOCUMENTS, unigram, target, **options).folder) == expected


def test_what_the_documents_raise_is_raised(unigram, tmp_path):
    def documents():
        yield from DOCUMENTS
        raise DataError("line 7 is not UTF-8")

    for threads in (1, 3):
        with pytest.raises(DataError, match="line 7"):
            build_store(documents(), unigram, tmp_path / "s", num_threads=threads)
        assert not (tmp_path / "s").exists()


def test_a_special_token_that_does_not_exist_is_refused(unigram, tmp_path, mocker):
    mocker.patch.object(unigram, "bos_id", None)

    with pytest.raises(DataError, match=r"add_bos is true, but the tokenizer has no BOS"):
        build_store(DOCUMENTS, unigram, tmp_path / "s", add_bos=True)
    with pytest.raises(DataError, match="shard_tokens"):
        build_store(DOCUMENTS, unigram, tmp_path / "s", shard_tokens=0)


class FullDisk(fs.Backend):
    """Takes `room` bytes and no more."""

    def __init__(self, room):
        self.room = room

    def write(self, fd, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(fd, data)

    def fsync(self, fd):
        pass


@pytest.mark.parametrize("room", [0, 100, 1000, 5000])
def test_a_full_disk_is_a_storage_error_and_the_build_can_go_on(unigram, tmp_path, expected, room):
    with fs.using(FullDisk(room)), pytest.raises(StorageError, match=r"ENOSPC.*bytes are free"):
        build_store(DOCUMENTS, unigram, tmp_path / "s", shard_tokens=100, source="s")

    assert not (tmp_path / "s").exists()
    store = build_store(DOCUMENTS, unigram, tmp_path / "s", shard_tokens=100, source="s")
    assert content(store.folder) == expected


def test_two_threads_that_want_the_same_store_make_it_once(unigram, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "POLL_SECONDS", 0.001)
    reads = []

    def documents():
        reads.append(1)
        yield from DOCUMENTS

    def make():
        build_store(documents(), unigram, tmp_path / "s", source="s")

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(reads) == 1
    assert len(ChunkStore.open(tmp_path / "s")) > 0


KILLED = """
import os, signal, sys
from pathlib import Path
from foundry_data import encoding
from foundry_data.store_build import build_store
from foundry_data.tokenizer_loading import load_tokenizer

encoding.BATCH_CHARACTERS = 200
documents = Path(sys.argv[2]).read_text().split("\\n")
calls = []

def kill(done):
    calls.append(done)
    if len(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

build_store(documents, load_tokenizer(sys.argv[1]), Path(sys.argv[3]), shard_tokens=100, source="s", num_threads=2,
            progress=kill)
"""


@pytest.mark.slow
def test_a_build_killed_again_and_again_ends_with_the_same_bytes(unigram, tmp_path, expected):
    (tmp_path / "m.model").write_bytes(unigram.model_bytes)
    (tmp_path / "d.txt").write_text("\n".join(DOCUMENTS))
    arguments = [str(tmp_path / name) for name in ("m.model", "d.txt", "s")]

    codes = []
    for blocks in (3, 1, 5, 1000):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), *arguments, str(blocks)]
        codes.append(subprocess.run(command, check=False).returncode)

    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert content(tmp_path / "s") == expected


def test_the_blocks_do_not_depend_on_how_documents_are_delivered(unigram, tmp_path):
    one = build_store(iter(DOCUMENTS), unigram, tmp_path / "a").folder
    two = build_store(np.array(DOCUMENTS, dtype=object).tolist(), unigram, tmp_path / "b").folder

    assert content(one) == content(two)
