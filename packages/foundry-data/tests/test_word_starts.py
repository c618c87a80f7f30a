"""Words of every token: the same as splitting the text, by the fast road and by the slow one."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foundry_data.sentencepiece_training import train_tokenizer
from foundry_data.text_counts import count_texts
from foundry_data.word_starts import LARGEST, _fit_into_bytes, surface_table, word_starts, word_starts_by_offsets

ALPHABET = "ab the\t\n\r\x0b\x1c\x00\x85\xa0\u2003\u2581\u3000\u00e9中😀.,"
texts = st.text(st.sampled_from(ALPHABET), max_size=30) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.mark.slow
@given(st.lists(texts, max_size=5))
@example(["", " ", "a", "", "\x85a\u2581 b"])
def test_counts_are_those_of_python(batch):
    counts = count_texts(batch)

    assert counts.words.tolist() == [len(text.split()) for text in batch]
    assert counts.bytes.tolist() == [len(text.encode()) for text in batch]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unigram", "bpe", "without_bytes"])
@given(batch=st.lists(texts, min_size=1, max_size=4))
def test_word_starts_add_up_to_the_words_of_each_text(kind, batch, request):
    tokenizer = request.getfixturevalue(kind)

    parts = starts_of(tokenizer, batch)

    assert [int(part.sum()) for part in parts] == [
        len(text.split()) if len(part) else 0 for text, part in zip(batch, parts, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@given(text=st.text(st.sampled_from("ab the\t\ncat é中.,"), max_size=40))
def test_both_roads_agree_on_plain_text(kind, text, request):
    tokenizer = request.getfixturevalue(kind)

    (fast,) = starts_of(tokenizer, [text])

    assert fast.tolist() == word_starts_by_offsets(text, tokenizer).tolist()


def starts_of(tokenizer, batch):
    ids = tokenizer.encode_batch(batch)
    ends = np.cumsum([len(i) for i in ids])
    flat = np.concatenate(ids)
    starts = word_starts(batch, flat, ends, count_texts(batch), surface_table(tokenizer), tokenizer)
    return np.split(starts, ends[:-1])


def test_a_word_belongs_to_the_token_of_its_first_character(unigram):
    text = "the cat sat"
    (starts,) = starts_of(unigram, [text])

    seen = ""
    for token_id, count in zip(unigram.encode(text), starts, strict=True):
        piece = unigram.token_text(token_id).replace("▁", " ")
        assert count == len((seen + piece).split()) - len(seen.split()) or not seen
        seen += piece


def test_normalization_that_makes_new_spaces_does_not_make_new_words(lines):
    tokenizer = train_tokenizer(lines, vocab_size=350, normalization="nmt_nfkc")
    text = "one\u00a8two three\u00a0four"  # the diaeresis becomes a space and a mark

    assert int(starts_of(tokenizer, [text])[0].sum()) == len(text.split()) == 3


@pytest.mark.slow
@given(st.lists(st.integers(0, 2000), min_size=1, max_size=40).filter(lambda c: sum(c) <= LARGEST * len(c)))
def test_counts_beyond_a_byte_are_handed_on_and_none_is_lost(counts):
    fitted = _fit_into_bytes(np.array(counts, dtype=np.int64))

    assert int(fitted.sum(dtype=np.int64)) == sum(counts)
    if max(counts) <= LARGEST:
        assert fitted.tolist() == counts
