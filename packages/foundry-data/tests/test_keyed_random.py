"""Chance keyed by seed and text."""

from hypothesis import given
from hypothesis import strategies as st

from foundry_data.keyed_random import keyed_choice, keyed_hash, keyed_random, split_by_hash

TEXTS = [f"document {number}" for number in range(4000)]


def test_keyed_hash_is_uniform_and_differs_by_seed_and_purpose():
    hashes = [keyed_hash(1, "sample", text) for text in TEXTS]

    assert len(set(hashes)) == len(TEXTS)
    assert abs(sum(value / 2**64 for value in hashes) / len(TEXTS) - 0.5) < 0.02
    assert keyed_hash(1, "sample", "x") != keyed_hash(2, "sample", "x") != keyed_hash(2, "other", "x")


def test_keyed_hash_never_changes():
    # Published experiments depend on these numbers.
    assert keyed_hash(42, "sample", "One small step.") == 11893577538554064213
    assert keyed_random(42, "shuffle", "x").random() == 0.9010401766887423


@given(st.integers(0, 2**63 - 1), st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_includes_all_of_a_smaller_one(seed, text, one, other):
    smaller, larger = sorted([one, other])

    assert keyed_choice(seed, "sample", text, fraction=larger) or not keyed_choice(
        seed, "sample", text, fraction=smaller
    )
    assert keyed_choice(seed, "sample", text, fraction=1.0)
    assert not keyed_choice(seed, "sample", text, fraction=0.0)


def test_split_by_hash_holds_out_the_asked_share_whatever_the_order():
    held_out = {text for text in TEXTS if split_by_hash(text, 0.1, seed=42)}

    assert held_out == {text for text in reversed(TEXTS) if split_by_hash(text, 0.1, seed=42)}
    assert 0.08 < len(held_out) / len(TEXTS) < 0.12
    assert held_out != {text for text in TEXTS if split_by_hash(text, 0.1, seed=43)}
