"""Streams of bytes: bounded, decompressed, and honest about damage."""

import gzip
import random
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import DataError
from foundry_data.byte_streams import line_blocks, read_chunks
from foundry_data.readers import list_sources
from foundry_data.sources import SourcePart

zstandard = pytest.importorskip("zstandard")

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def part_of(path):
    (file,) = list_sources(path)
    return SourcePart(file)


@given(st.lists(st.binary(max_size=12), max_size=8), st.integers(1, 5))
def test_line_blocks_are_the_chunks_cut_after_line_breaks(chunks, first):
    whole = b"".join(chunks)

    blocks = list(line_blocks(chunks, first=first, max_bytes=1000, label="x"))

    assert b"".join(block.data for block in blocks) == whole
    assert all(block.data.endswith(b"\n") for block in blocks[:-1])
    seen = b""
    for block in blocks:
        assert block.first == first + seen.count(b"\n")
        seen += block.data


def test_a_line_over_the_limit_is_named_with_its_number():
    with pytest.raises(DataError, match=r"moon\.txt:3: a document of more than 4 bytes"):
        list(line_blocks([b"one\ntwo\nth", b"ree"], first=1, max_bytes=4, label="moon.txt"))


@pytest.mark.parametrize("compression", ["", pytest.param(".gz", marks=pytest.mark.slow), ".zst"])
def test_read_chunks_gives_the_content_whatever_the_compression(tmp_path, compression):
    content = random.Random(0).randbytes(3 * 2**20)
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(COMPRESS[compression](content))

    chunks = list(read_chunks(part_of(path)))

    assert b"".join(chunks) == content
    assert len(chunks) > 1


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_several_compressed_members_are_read_as_one_file(tmp_path, compression):
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(b"".join(COMPRESS[compression](text) for text in (b"one ", b"", b"two ", b"three")))

    assert b"".join(read_chunks(part_of(path))) == b"one two three"


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "not compressed"])
def test_a_damaged_compressed_file_is_named(tmp_path, compression, damage):
    path = tmp_path / f"a.txt{compression}"
    data = bytearray(COMPRESS[compression](bytes(range(256)) * 500))
    if damage == "cut":
        data = data[:-9]
    elif damage == "flipped":
        data[: len(data) // 2] = bytes(len(data) // 2)
    else:
        data = bytearray(b"just text that was never compressed")
    path.write_bytes(data)

    with pytest.raises(DataError, match=rf"a\.txt{compression} is damaged or cut short"):
        list(read_chunks(part_of(path)))


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_decompression_bomb_is_read_in_bounded_memory(tmp_path, compression):
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(COMPRESS[compression](bytes(2**24)))
    part = part_of(path)

    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.txt.*:1: a document of more than 1,048,576 bytes"):
        list(line_blocks(read_chunks(part), first=1, max_bytes=2**20, label=part.file.label))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert path.stat().st_size < 2**15
    assert peak < (2**25 + 2**22 if compression == ".zst" else 2**23)


@pytest.mark.parametrize("change", ["grown", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, change):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 2**21)
    chunks = read_chunks(part_of(path))
    next(chunks)

    if change == "grown":
        with path.open("ab") as file:
            file.write(b"more")
    else:
        path.unlink()
        if change == "replaced":
            path.write_bytes(b"y" * 2**21)

    with pytest.raises(DataError, match=r"a\.txt(' )?.*(changed while it was read|No such file)"):
        list(chunks)


def test_a_file_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"text")
    part = part_of(path)

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)

    with pytest.raises(DataError, match=r"cannot read a\.txt: Permission denied"):
        list(read_chunks(part))


def test_zstandard_is_asked_for_by_name_when_it_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"text"))
    monkeypatch.setitem(sys.modules, "zstandard", None)

    with pytest.raises(DataError, match=r"install foundry-data\[zstd\]"):
        list(read_chunks(part_of(path)))
