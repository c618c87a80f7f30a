"""Pairs of a function on the whole stream."""

from hypothesis import given
from hypothesis import strategies as st

from foundry_data.documents import Document
from foundry_data.stream_pairs import StreamPairs

DOCUMENTS = [Document(f"text {number}", f"x:{number}") for number in range(200)]


def sample(outputs, *, lazily, size=10):
    pairs = StreamPairs(seed=1, size=size)
    for document in DOCUMENTS:
        pairs.goes_in(document)
        if lazily and document.source in outputs:
            pairs.comes_out(outputs[document.source], has_source=True)
    for output in () if lazily else outputs.values():
        pairs.comes_out(output, has_source=True)
    return pairs.result()


@given(st.booleans())
def test_documents_are_paired_by_source_whether_they_come_out_at_once_or_at_the_end(reverse):
    changed = [document._replace(text=document.text.upper()) for document in DOCUMENTS]
    outputs = {document.source: document for document in (reversed(changed) if reverse else changed)}

    lazily, at_the_end = sample(outputs, lazily=True), sample(outputs, lazily=False)

    assert lazily == at_the_end
    assert len(lazily) == 10
    assert all(pair.after == pair.before.upper() for pair in lazily)


def test_documents_that_never_come_out_are_removed():
    assert all(pair.after is None for pair in sample({}, lazily=True))


def test_texts_without_a_source_are_sampled_on_their_own():
    pairs = StreamPairs(seed=1, size=2)
    pairs.goes_in(Document("in", "x:1"))
    for number in range(5):
        pairs.comes_out(Document(f"out {number}", f"f:{number}"), has_source=False)

    result = pairs.result()

    assert pairs.has_texts_without_source
    assert [(pair.before is None, pair.after is None) for pair in result] == [
        (False, True),
        (True, False),
        (True, False),
    ]


def test_of_documents_with_one_source_the_first_is_taken():
    pairs = StreamPairs(seed=1)
    for text in ("first", "second"):
        pairs.goes_in(Document(text, "same"))
        pairs.comes_out(Document(text.upper(), "same"), has_source=True)

    assert [(pair.before, pair.after) for pair in pairs.result()] == [("first", "FIRST")]
