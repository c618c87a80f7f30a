"""A token store gives back what went in, and names what is damaged."""

import copy
import os
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_config.errors import DataError
from foundry_data import store_format as layout
from foundry_data.store import ChunkStore
from foundry_data.store_build import build_store, build_store_from_ids

texts = st.lists(st.text(st.sampled_from("the cat\n é."), max_size=40), min_size=1, max_size=8)
documents_once = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stream_of(tokenizer, documents, *, bos=False, eos=True):
    before, after = [2] * bos, [3] * eos
    return [token for text in documents for token in [*before, *tokenizer.encode(text), *after]]


@pytest.mark.slow
@given(documents=texts, shard_tokens=st.integers(1, 60), bos=st.booleans(), eos=st.booleans())
@documents_once
def test_a_store_gives_back_every_token_in_order(make_store, unigram, documents, shard_tokens, bos, eos):
    store = make_store(documents, shard_tokens=shard_tokens, add_bos=bos, add_eos=eos)

    expected = stream_of(unigram, documents, bos=bos, eos=eos)
    assert store.read(0, len(store)).tolist() == expected
    assert len(store) == len(expected)
    assert store.manifest.documents == len(documents)
    assert store.manifest.words == sum(len(text.split()) for text in documents)
    assert store.manifest.bytes == sum(len(text.encode()) for text in documents)
    assert store.manifest.bytes_exact
    assert store.manifest.max_id == max(expected, default=-1)
    store.verify()


@pytest.mark.slow
@given(documents=texts, shard_tokens=st.integers(1, 60), data=st.data())
@documents_once
def test_any_range_and_any_gather_equal_slices_of_the_stream(make_store, unigram, documents, shard_tokens, data):
    store = make_store(documents, shard_tokens=shard_tokens)
    expected = stream_of(unigram, documents)
    start, stop = sorted(data.draw(st.lists(st.integers(0, len(expected)), min_size=2, max_size=2)))
    length = data.draw(st.integers(1, len(expected)))
    starts = data.draw(st.lists(st.integers(0, len(expected) - length), max_size=5))

    assert store.read(start, stop).tolist() == expected[start:stop]
    rows = store.gather(np.array(starts, dtype=np.int64), length)
    assert rows.tolist() == [expected[s : s + length] for s in starts]
    assert [c.tolist() for c in store.chunks(length)] == [
        expected[i : i + length] for i in range(0, len(expected) - length + 1, length)
    ]


@pytest.mark.slow
@given(documents=texts, shard_tokens=st.integers(40, 900), data=st.data())
@documents_once
def test_words_of_any_range_are_the_sum_of_the_word_starts(make_store, documents, shard_tokens, data):
    store = make_store([*documents, "the cat " * 200], shard_tokens=shard_tokens)
    positions = np.array(data.draw(st.lists(st.integers(0, len(store)), min_size=1, max_size=6)), dtype=np.int64)

    starts = store.word_starts(0, len(store)).astype(int)

    assert store.words_before(positions).tolist() == [int(starts[:p].sum()) for p in positions]
    assert store.words_between(0, len(store)) == store.manifest.words


def test_documents_are_found_by_number_and_by_position(make_store, unigram):
    documents = ["the cat", "", "sat on a mat"]
    store = make_store(documents)

    assert [store.document(i).tolist() for i in range(3)] == [[*unigram.encode(text), 3] for text in documents]
    owners = store.document_at(np.arange(len(store)))
    assert owners.tolist() == [i for i in range(3) for _ in store.document(i)]
    assert np.diff(store.document_words).tolist() == [2, 0, 4]
    assert np.diff(store.document_bytes).tolist() == [7, 0, 12]


def test_chunks_are_a_sequence(make_store):
    chunks = make_store(["the cat sat on a mat " * 20]).chunks(8)

    assert chunks[-1].tolist() == chunks[len(chunks) - 1].tolist()
    assert [c.tolist() for c in chunks[1:4:2]] == [chunks[1].tolist(), chunks[3].tolist()]
    assert len(chunks) * 8 + chunks.remainder == len(chunks.store)
    with pytest.raises(IndexError):
        chunks[len(chunks)]
    with pytest.raises(ValueError, match="at least one token"):
        chunks.store.chunks(0)


def test_a_range_outside_the_store_is_refused(make_store):
    store = make_store(["the cat"])

    for start, stop in ((-1, 2), (0, len(store) + 1), (3, 2)):
        with pytest.raises(IndexError):
            store.read(start, stop)
    with pytest.raises(IndexError):
        store.gather(np.array([len(store) - 1]), 2)


def test_an_empty_store_can_be_opened(make_store):
    store = make_store([])

    assert len(store) == store.manifest.documents == len(store.chunks(4)) == 0
    assert store.words_before(np.array([0])).tolist() == [0]
    store.verify()


@pytest.mark.parametrize(("size", "dtype"), [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_ids_take_four_bytes_only_where_the_vocabulary_needs_it(size, dtype):
    assert layout.token_dtype(size) == dtype


def test_files_are_little_endian_numbers_without_a_header(make_store, unigram):
    store = make_store(["the cat sat"], shard_tokens=4)

    raw = b"".join((store.folder / f"tokens-{i:05d}.bin").read_bytes() for i in range(store.manifest.shards))

    expected = stream_of(unigram, ["the cat sat"])
    assert raw == b"".join(token.to_bytes(2, "little") for token in expected)
    starts = np.frombuffer((store.folder / "document-tokens.bin").read_bytes(), dtype="<i8")
    assert starts.tolist() == [0, len(expected)]
    assert sorted(p.name for p in store.folder.iterdir()) == sorted([*store.manifest.files, "manifest.json"])


FILES = ["tokens-00000.bin", "tokens-00001.bin", "words-00000.bin", "document-tokens.bin", "word-totals.bin"]


@pytest.fixture
def fresh(make_store):
    return make_store(["the cat sat on a mat " * 20, "forty dogs"], shard_tokens=64)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_truncated_or_odd_file_is_named_on_opening(fresh, name):
    path = fresh.folder / name
    content = path.read_bytes()

    for damage in (content[:-1], content[: len(content) // 2], content + b"\x00", b""):
        path.write_bytes(damage)
        with pytest.raises(DataError, match=rf"{name} has [\d,]+ bytes, but"):
            ChunkStore.open(fresh.folder)
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        ChunkStore.open(fresh.folder)


READERS = {
    "tokens-00001.bin": lambda store: store.gather(np.array([70]), 8),
    "tokens-00000.bin": lambda store: store.read(0, 100),
    "words-00001.bin": lambda store: store.word_starts(70, 80),
    "words-00000.bin": lambda store: store.words_before(np.array([10])),
    "word-totals.bin": lambda store: store.words_between(0, 64),
    "document-tokens.bin": lambda store: store.document(1),
    "document-words.bin": lambda store: store.document_words,
    "document-bytes.bin": lambda store: store.document_bytes,
    "token-bytes.bin": lambda store: store.token_bytes,
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_whose_size_changes_while_the_store_is_open_is_named_by_the_next_read(fresh, name):
    path, read = fresh.folder / name, READERS[name]
    size = path.stat().st_size
    read(fresh)

    for changed in (0, size - 1, size + 1):  # a page less would kill the process; a byte less would read as zeros
        os.truncate(path, changed)
        with pytest.raises(DataError, match=rf"{name} was changed while it was in use .* {changed:,} now"):
            read(fresh)
    os.truncate(path, size)
    read(fresh)


CUT_BETWEEN_CHECK_AND_COPY = """
import os, sys
import numpy as np
from foundry_data.mapped_stream import MappedFile
from foundry_data.store import ChunkStore

store = ChunkStore.open(sys.argv[1])
checked = MappedFile.numbers.fget

def cut(file):
    numbers = checked(file)
    os.truncate(file._path, 0)
    return numbers

MappedFile.numbers = property(cut)
store.gather(np.array([70]), 8)
"""


@pytest.mark.slow
def test_a_shard_cut_in_the_moment_of_the_copy_is_named_in_the_stack_of_the_crash(fresh):
    command = [sys.executable, "-X", "faulthandler", "-c", CUT_BETWEEN_CHECK_AND_COPY, str(fresh.folder)]

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in ended.stderr
    assert f"tokens-00001.bin in {fresh.folder}"[:400] in ended.stderr


def test_a_copy_of_an_open_store_maps_the_files_itself(fresh):
    twin = copy.deepcopy(fresh)

    assert twin.read(0, len(twin)).tolist() == fresh.read(0, len(fresh)).tolist()


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_anywhere_is_named_by_verify(fresh, data):
    path = fresh.folder / data.draw(st.sampled_from(sorted(fresh.manifest.files)))
    content = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])

    with pytest.raises(DataError, match=path.name):
        fresh.verify()

    path.write_bytes(content)
    fresh.verify()


def test_swapped_shards_are_named_by_verify(make_store):
    store = make_store([f"the cat sat on mat {'a' * i}" for i in range(40)], shard_tokens=64)
    one, two = (store.folder / f"tokens-{i:05d}.bin" for i in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    assert first != second
    one.write_bytes(second)
    two.write_bytes(first)

    with pytest.raises(DataError, match="tokens-00000"):
        ChunkStore.open(store.folder).verify()


def test_a_link_in_place_of_a_file_is_refused(fresh, tmp_path):
    path = fresh.folder / "tokens-00000.bin"
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)

    with pytest.raises(DataError, match="not an ordinary file"):
        ChunkStore.open(fresh.folder)


def rewrite_manifest(store, **changes):
    manifest = msgspec.structs.replace(store.manifest, **changes)
    (store.folder / layout.MANIFEST).write_bytes(layout.encode_manifest(manifest))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "tokens-00000.bin/../../x", "tokens-99999.bin"])
def test_a_manifest_that_names_other_files_is_refused(fresh, name):
    files = dict(fresh.manifest.files)
    files[name] = files.pop("tokens-00000.bin")
    rewrite_manifest(fresh, files=files)

    with pytest.raises(DataError, match="does not list the files"):
        ChunkStore.open(fresh.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_id": 400}, "largest token id is 400, but the vocabulary has 400"),
        ({"vocab_size": 70000}, "uint16 cannot hold"),
        ({"dtype": "float64"}, "numbers cannot be right"),
        ({"tokens": -1}, "numbers cannot be right"),
        ({"format": "foundry.tokens/9"}, "this version reads"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(fresh, changes, message):
    rewrite_manifest(fresh, **changes)

    with pytest.raises(DataError, match=message):
        ChunkStore.open(fresh.folder)


@pytest.mark.parametrize(
    "damage",
    ["cut", "edited", "not json", pytest.param("huge", marks=pytest.mark.slow), "another type", "unknown field"],
)
def test_a_damaged_manifest_is_named(fresh, damage):
    path = fresh.folder / layout.MANIFEST
    content = path.read_bytes()
    plain = msgspec.json.decode(content)
    if damage == "unknown field":
        plain["more"] = 1
        plain.pop("self")
        plain["self"] = layout._self_digest(plain)
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "edited": content.replace(b'"documents": 2', b'"documents": 3'),
            "not json": b"\xff\xfe",
            "huge": b" " * (layout.MAX_MANIFEST_BYTES + 1),
            "another type": b"[]",
            "unknown field": msgspec.json.encode(plain),
        }[damage]
    )

    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        ChunkStore.open(fresh.folder)


def test_a_folder_without_a_manifest_is_no_store(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="is not a token store"):
            ChunkStore.open(folder)


def test_ids_can_be_stored_as_they_are(unigram, tmp_path):
    sequences = [np.array(unigram.encode("the cat sat")), np.array([], dtype=np.int64), np.array([3, 5])]

    store = build_store_from_ids(sequences, unigram, tmp_path / "s")

    assert store.read(0, len(store)).tolist() == [t for s in sequences for t in s.tolist()]
    assert store.document_words[1] == 3
    assert store.manifest.documents == 3


@pytest.mark.parametrize("wrong", [-1, 400])
def test_an_id_outside_the_vocabulary_is_refused_with_its_sequence(unigram, tmp_path, wrong):
    with pytest.raises(DataError, match=rf"sequence 1 has the token id {wrong}"):
        build_store_from_ids([np.array([5]), np.array([7, wrong])], unigram, tmp_path / "s")


def test_a_store_without_byte_fallback_counts_its_unknown_tokens(without_bytes, tmp_path):
    store = build_store(["the 中 cat", "ok"], without_bytes, tmp_path / "s")

    assert store.manifest.unknown_tokens == sum(without_bytes.encode("the 中 cat").count(1) for _ in range(1))
    assert store.manifest.unknown_tokens > 0
    assert not store.manifest.bytes_exact


OPEN_SPARSE = """
import resource, sys, time
import numpy as np
from foundry_data.store import ChunkStore
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
store = ChunkStore.open(sys.argv[1])
for position in (0, 5_000_000_123, 9_999_999_000):
    store.read(position, position + 512)
    store.words_before(np.array([position]))
    store.gather(np.array([position]), 512)
print(time.perf_counter() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_ten_billion_tokens_open_at_once_and_take_no_memory(make_store, tmp_path):
    folder = tmp_path / "sparse"
    folder.mkdir()
    small = make_store(["the cat"]).manifest
    manifest = msgspec.structs.replace(small, tokens=10**10, documents=10**7, shard_tokens=2**28)
    sizes = manifest.expected_sizes()
    for name, size in sizes.items():
        with (folder / name).open("wb") as file:
            file.truncate(size)
    files = {name: layout.FileEntry(size, "") for name, size in sizes.items()}
    manifest = msgspec.structs.replace(manifest, files=files)
    (folder / layout.MANIFEST).write_bytes(layout.encode_manifest(manifest))

    results = [
        subprocess.run(
            [sys.executable, "-c", OPEN_SPARSE, str(folder)], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]

    assert min(float(seconds) for seconds, _ in results) < 0.05
    assert min(int(grown) for _, grown in results) < 100e6
