"""Steps that keep or remove whole documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import ConfigError
from foundry_data.keyed_random import split_by_hash
from foundry_data.transforms import parse_steps

TEXTS = [f"document {number}" for number in range(500)]


def kept(texts, **options):
    (step,) = parse_steps([options], seed=0)
    editor = step.transform.editor(step.context)
    return [text for text in texts if editor(text) is not None]


@pytest.mark.parametrize(
    ("options", "survivors"),
    [
        ({"name": "regex_drop", "pattern": "b"}, ["a", "a c"]),
        ({"name": "regex_drop", "pattern": "B", "ignore_case": True, "drop": "others"}, ["a b", "a b c!"]),
        ({"name": "filter_length", "minimum": 2}, ["a b", "a c", "a b c!"]),
        ({"name": "filter_length", "minimum": 2, "maximum": 2}, ["a b", "a c"]),
        ({"name": "filter_length", "maximum": 3, "unit": "characters"}, ["a", "a b", "a c"]),
        ({"name": "filter_characters", "allowed": "[a-z ]"}, ["a", "a b", "a c"]),
        ({"name": "filter_characters", "allowed": "[a-z ]", "minimum_share": 0.8}, ["a", "a b", "a c", "a b c!"]),
        ({"name": "filter_characters", "allowed": "[^a-z]", "minimum_share": 0.5}, ["a b c!"]),
        ({"name": "sample", "fraction": 0.0}, []),
        ({"name": "sample", "fraction": 1.0}, ["a", "a b", "a c", "a b c!"]),
    ],
)
def test_examples(options, survivors):
    assert kept(["a", "a b", "a c", "a b c!"], **options) == survivors


def test_a_sample_has_about_the_asked_share_and_grows_with_it():
    tenth, half = (set(kept(TEXTS, name="sample", fraction=share)) for share in (0.1, 0.5))

    assert 30 < len(tenth) < 70
    assert tenth < half


def test_samples_of_two_steps_are_independent():
    one, two = parse_steps([{"name": "sample", "fraction": 0.5}] * 2, seed=1)

    assert one.context.seed != two.context.seed


@pytest.mark.slow
@given(st.lists(st.text(min_size=1)), st.floats(0, 1), st.integers(0, 2**32))
def test_hash_split_parts_the_corpus_as_the_helper_does(texts, fraction, seed):
    test, train = (
        kept(texts, name="hash_split", fraction=fraction, keep=side, seed=seed) for side in ("test", "train")
    )

    assert test == [text for text in texts if split_by_hash(text, fraction, seed)]
    assert sorted(test + train) == sorted(texts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "filter_length", "minimum": 5, "maximum": 4}, "no document would be kept"),
        ({"name": "filter_length", "minimum": -1}, ">= 0"),
        ({"name": "filter_length", "unit": "bytes"}, "Invalid enum value 'bytes'"),
        ({"name": "filter_characters", "allowed": "["}, "is not a regular expression"),
        ({"name": "regex_drop", "pattern": "*"}, "is not a regular expression"),
        ({"name": "sample", "fraction": 2}, "<= 1"),
        ({"name": "hash_split", "fraction": 0.5, "keep": "train"}, "needs the option 'seed'"),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_text(options, said):
    with pytest.raises(ConfigError, match=said):
        parse_steps([options], seed=0)
