"""Equal sizes for ablated corpora."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import DataError
from foundry_data.documents import Document
from foundry_data.top_up import TopUpReceipt, WithoutTexts, top_up
from foundry_data.words import count_words

pytestmark = pytest.mark.usefixtures("unsynced")

CORPUS = [Document(f"corpus {number}", f"c:{number}") for number in range(50)]  # 2 words each
POOL = [Document(f"pool {number} " + "word " * (number % 7), f"p:{number}") for number in range(400)]


def words(documents):
    return sum(count_words(document.text) for document in documents)


@pytest.mark.slow
@given(st.integers(0, 1500), st.integers(0, 5))
def test_whole_documents_come_as_close_to_the_target_as_they_can(target, seed):
    result = list(top_up(CORPUS, POOL, target, seed=seed))

    assert result[: len(CORPUS)] == CORPUS
    added = result[len(CORPUS) :]
    assert abs(words(result) - target) <= 4 or target < words(CORPUS)  # half of the longest document
    assert len(set(added)) == len(added)
    assert [document for document in POOL if document in set(added)] == added


def test_the_same_documents_are_drawn_for_a_seed_whatever_the_order_of_the_pool():
    drawn = {seed: set(top_up(CORPUS, POOL, 500, seed=seed)) for seed in (1, 2)}

    assert set(top_up(CORPUS, POOL[::-1], 500, seed=1)) == drawn[1]
    assert drawn[1] != drawn[2]


def test_texts_of_the_corpus_and_copies_in_the_pool_are_not_drawn():
    pool = [*CORPUS, *POOL[:20], *POOL[:20]]

    result = list(top_up(CORPUS, pool, words(CORPUS) + words(POOL[:20]), seed=0))

    assert result == [*CORPUS, *POOL[:20]]


def test_a_pool_that_is_too_small_is_refused_with_the_numbers():
    with pytest.raises(DataError, match=r"replacement_corpus has 2 words that neither .* has, but 900 are missing"):
        list(top_up(CORPUS, [Document("two words")], 1000, seed=0))
    with pytest.raises(DataError, match="has 0 words"):
        list(top_up(CORPUS, [], 1000, seed=0))


def test_a_pool_that_changes_between_the_readings_is_refused():
    class Fickle:
        readings = 0

        def __iter__(self):
            self.readings += 1
            return iter(POOL if self.readings == 1 else [])

    with pytest.raises(DataError, match="gave other documents on the second reading"):
        list(top_up(CORPUS, Fickle(), 500, seed=0))


def test_a_corpus_that_is_large_enough_leaves_the_pool_unread():
    def unreadable():
        raise AssertionError("the pool was read")
        yield

    assert list(top_up(CORPUS, unreadable(), 100, seed=0)) == CORPUS


def test_the_receipt_tells_what_was_added(tmp_path):
    result = list(top_up(CORPUS, POOL, lambda: 500, seed=0, receipts_dir=tmp_path, name="02-top-up"))

    receipt = msgspec.json.decode((tmp_path / "02-top-up.json").read_bytes(), type=TopUpReceipt)

    assert (receipt.target_words, receipt.before.words, receipt.after.words) == (500, 100, words(result))
    assert receipt.added_documents == len(result) - len(CORPUS)
    assert receipt.added_words == receipt.after.words - 100
    assert (receipt.pool_documents, receipt.pool_words, receipt.pool_duplicates) == (400, words(POOL), 0)
    assert len(receipt.pairs) == 50
    assert all(pair.before is None for pair in receipt.pairs)


def test_documents_whose_text_is_elsewhere_are_left_out_at_every_reading():
    asked = []

    def others():
        asked.append(1)
        return CORPUS[:10]

    pool = WithoutTexts([*POOL, *CORPUS], others)

    assert list(pool) == list(pool) == [*POOL, *CORPUS[10:]]
    assert (pool.left_out, len(asked)) == (10, 1)
