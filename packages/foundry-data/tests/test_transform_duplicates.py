"""Exact and near duplicates."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_data.transform_duplicates import (
    PERMUTATIONS,
    estimate_similarity,
    hash_ngrams,
    rows_per_band,
)
from foundry_data.transforms import parse_steps


def kept(texts, **options):
    (step,) = parse_steps([options], seed=0)
    measure, gate = step.transform.measure(step.context), step.transform.gate()
    return [text for text in texts if gate(measure(text))]


def signature_function(**options):
    (step,) = parse_steps([{"name": "deduplicate_minhash", **options}], seed=0)
    return step.transform.measure(step.context)


def words(count, seed):
    return [str(random.Random(f"{seed} {number}").randrange(10**6)) for number in range(count)]


@given(st.lists(st.sampled_from(["a", "b", "A", "a ", "é"])))
def test_deduplicate_keeps_the_first_of_equal_texts(texts):
    assert kept(texts, name="deduplicate") == list(dict.fromkeys(texts))


@pytest.mark.parametrize(
    ("ignore", "survivors"),
    [
        ("nothing", ["A  b", "a b", "a b ", "c"]),
        ("case", ["A  b", "a b", "a b ", "c"]),
        ("case_and_space", ["A  b", "c"]),
    ],
)
def test_what_counts_as_equal_can_be_chosen(ignore, survivors):
    assert kept(["A  b", "a b", "a b", "a b ", "c"], name="deduplicate", ignore=ignore) == survivors


@pytest.mark.parametrize("shared", [0.2, 0.5, 0.8, 0.95])
def test_the_estimate_is_close_to_the_jaccard_similarity(shared):
    count = 2000
    common = round(2 * count * shared / (1 + shared))  # of two sets of `count`, for similarity `shared`
    one, other = words(count, "one"), words(count, "other")
    other[:common] = one[:common]
    signature = signature_function(ngram=1)

    exact = len(set(one) & set(other)) / len(set(one) | set(other))
    estimate = estimate_similarity(signature(" ".join(one)), signature(" ".join(other)))

    standard_error = (exact * (1 - exact) / PERMUTATIONS) ** 0.5
    assert abs(estimate - exact) < 4 * standard_error


def test_near_duplicates_are_removed_and_different_texts_are_kept():
    base = words(300, "base")
    near = [*base[:150], "changed", *base[151:]]
    far = words(300, "far")

    assert kept([" ".join(base), " ".join(near), " ".join(far)], name="deduplicate_minhash") == [
        " ".join(base),
        " ".join(far),
    ]


def test_case_and_space_make_no_difference_to_near_duplicates():
    assert kept(["One small step for a man", "one  SMALL step\nfor a man"], name="deduplicate_minhash") == [
        "One small step for a man"
    ]


def test_texts_shorter_than_an_ngram_are_compared_as_a_whole():
    assert kept(["a b", "a b", "a c", "a"], name="deduplicate_minhash") == ["a b", "a c", "a"]


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 4))
def test_there_is_one_hash_for_each_different_ngram(letters, size):
    hashes = hash_ngrams(" ".join(letters), size)

    size = min(size, max(len(letters), 1))
    expected = {tuple(letters[start : start + size]) for start in range(max(len(letters) - size + 1, 1))}
    assert len(hashes) == len(expected)
    assert hashes.dtype == np.uint64


def test_long_documents_are_hashed_in_pieces_without_a_difference(monkeypatch):
    from foundry_data import transform_duplicates

    text = " ".join(words(500, "long"))
    whole = signature_function()(text)

    monkeypatch.setattr(transform_duplicates, "NGRAMS_AT_ONCE", 7)

    assert signature_function()(text) == whole


def test_signatures_never_change():
    # A corpus that was published with its receipts has to come out the same later.
    assert signature_function()("one small step for a man").hex()[:16] == "e977400c9080880a"


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_similar_documents_nearly_always_share_a_band(similarity):
    rows = rows_per_band(similarity)

    assert 1 - (1 - similarity**rows) ** (PERMUTATIONS // rows) >= 0.98
