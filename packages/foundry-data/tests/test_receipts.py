"""Counts, hashes and pairs of a receipt."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_data.receipts import (
    EXCERPT_CHARACTERS,
    Pair,
    PairSample,
    Receipt,
    StreamCount,
    TextCounts,
    read_receipt,
    write_receipt,
)

pytestmark = pytest.mark.usefixtures("unsynced")

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8)


@given(texts)
def test_a_stream_is_hashed_as_the_docs_say(found):
    count = StreamCount()
    for text in found:
        count.add(text, len(text.split()))

    data = b"".join(len(text.encode()).to_bytes(8, "little") + text.encode() for text in found)
    assert count.result() == TextCounts(
        documents=len(found),
        words=sum(len(text.split()) for text in found),
        characters=sum(map(len, found)),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def test_the_hash_tells_where_documents_end():
    one, two = StreamCount(), StreamCount()
    one.add("ab", 1)
    two.add("a", 1)
    two.add("b", 1)

    assert one.result().sha256 != two.result().sha256


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), st.integers(1, 6))
def test_a_sample_holds_the_lowest_priorities_changed_ones_first_in_the_order_of_the_corpus(offers, size):
    sample = PairSample(size)
    for number, (priority, changed) in enumerate(offers):
        sample.offer(str(number), "a", "b" if changed else "a", priority)

    ranked = sorted(range(len(offers)), key=lambda number: (not offers[number][1], offers[number][0], number))
    assert [int(pair.source) for pair in sample.result()] == sorted(ranked[:size])


def test_a_long_pair_is_an_excerpt_around_the_first_difference():
    sample = PairSample()
    before = "x" * 5000 + "old" + "y" * 5000

    sample.offer("a", before, before.replace("old", "new"), 0)
    (pair,) = sample.result()

    assert pair.excerpt
    assert (pair.before[200:203], pair.after[200:203]) == ("old", "new")
    assert len(pair.before) == len(pair.after) == EXCERPT_CHARACTERS


def test_a_short_pair_is_whole():
    sample = PairSample()
    sample.offer("a", "one two", "one", 0)
    sample.offer("b", "gone", None, 1)
    sample.offer("c", None, "added", 2)

    assert sample.result() == (Pair("a", "one two", "one"), Pair("b", "gone", None), Pair("c", None, "added"))


@given(st.text(alphabet="ab", max_size=30), st.text(alphabet="ab", max_size=30))
def test_the_first_difference_is_found(one, other):
    sample = PairSample()

    sample.offer("a", "c" * 300 + one, "c" * 300 + other, 0)
    (pair,) = sample.result()

    if one != other:
        same = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
        assert pair.before == ("c" * 300 + one)[100 + same :]


def test_receipts_are_readable_json_and_replace_older_ones(tmp_path):
    counts = TextCounts(1, 2, 3, "0" * 64)
    receipt = Receipt(
        step=0,
        name="lowercase",
        settings={},
        code="sha256:",
        seed=1,
        before=counts,
        after=counts,
        seconds=0.5,
        pairs=(),
    )

    write_receipt(tmp_path / "deep" / "receipts", receipt, name="00-lowercase")
    path = write_receipt(tmp_path / "deep" / "receipts", receipt, name="00-lowercase")

    assert read_receipt(path) == receipt
    assert path.read_text().startswith('{\n  "format": "foundry-receipt/1",\n  "step": 0')
    assert json.loads(path.read_text())["before"]["words"] == 2
    assert [entry.name for entry in path.parent.iterdir()] == ["00-lowercase.json"]
