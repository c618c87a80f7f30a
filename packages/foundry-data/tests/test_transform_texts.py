"""Steps that rewrite a document."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import ConfigError
from foundry_data.transform_texts import split_sentences
from foundry_data.transforms import parse_steps

prose = st.text(alphabet="ab .!?\n\"')\té", max_size=60)


def edit(text, *, seed=0, **options):
    (step,) = parse_steps([options], seed=seed)
    return step.transform.editor(step.context)(text)


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({"name": "lowercase"}, "In PARIS, Ärger", "in paris, ärger"),
        ({"name": "regex_replace", "pattern": "[0-9]+", "replacement": "0"}, "in 1969 and 70", "in 0 and 0"),
        ({"name": "regex_replace", "pattern": "(a)(b)", "replacement": r"\2\1"}, "ab AB", "ba AB"),
        ({"name": "regex_replace", "pattern": "ab", "ignore_case": True}, "ab AB x", "  x"),
        ({"name": "regex_replace", "pattern": "^x", "replacement": "y"}, "x\nx", "y\ny"),
        ({"name": "drop_words", "words": ["the", "a"]}, "The cat saw a dog, then the.", "cat saw dog, then ."),
        ({"name": "drop_words", "words": ["The"], "ignore_case": False}, "The cat, the dog", "cat, the dog"),
        ({"name": "drop_words", "words": ["c++", "c"]}, "c++ and c or cc", "and or cc"),
        ({"name": "drop_words", "words": ["x"]}, "x\ny x", "\ny "),
        ({"name": "drop_sentences", "pattern": r"\bwho\b", "ignore_case": True}, "I am. Who? No.", "I am. No."),
        ({"name": "drop_sentences", "pattern": "No", "drop": "others"}, "I am. Who? No.", "No."),
    ],
)
def test_examples(options, before, after):
    assert edit(before, **options) == after


@given(prose)
def test_sentences_joined_are_the_text(text):
    sentences = split_sentences(text)

    assert "".join(sentences) == text
    assert all(sentences)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ('He said "No!" Then (he left.) End.', ['He said "No!" ', "Then (he left.) ", "End."]),
        ("3.5 is a number... Yes", ["3.5 is a number... ", "Yes"]),
        ("a title\n\n a line\nEnd.\n", ["a title\n\n ", "a line\n", "End.\n"]),
        ("", []),
    ],
)
def test_sentences_end_at_marks_before_space_and_at_line_breaks(text, sentences):
    assert split_sentences(text) == sentences


def test_splitting_long_runs_of_marks_takes_linear_time():
    text = ('.!?"' * 50_000) + ("." * 50_000) + ("\n" * 50_000) + "x"

    assert "".join(split_sentences(text)) == text


@given(prose, st.integers(2, 6), st.integers(0, 3))
def test_shuffled_words_stay_in_their_window_and_white_space_where_it_is(text, window, seed):
    shuffled = edit(text, name="shuffle_words", window=window, seed=seed)

    words, moved = text.split(), shuffled.split()
    for start in range(0, len(words), window):
        assert sorted(words[start : start + window]) == sorted(moved[start : start + window])
    assert re.findall(r"\s+", text) == re.findall(r"\s+", shuffled)


def test_shuffling_is_the_same_for_a_seed_and_differs_between_seeds():
    text = " ".join(map(str, range(50)))
    shuffled = [edit(text, name="shuffle_words", window=10, seed=seed) for seed in (1, 1, 2)]

    assert shuffled[0] == shuffled[1] != shuffled[2]


@given(prose, st.lists(st.sampled_from(["a", "b", "ab", "é"]), min_size=1, max_size=3))
def test_dropped_words_are_gone_and_others_are_left(text, words):
    left = edit(text, name="drop_words", words=words, ignore_case=False)

    assert re.findall(r"\w+", left) == [word for word in re.findall(r"\w+", text) if word not in words]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "regex_replace", "pattern": "("}, "is not a regular expression"),
        ({"name": "regex_replace", "pattern": "a", "replacement": r"\1"}, "does not fit the pattern"),
        ({"name": "drop_sentences", "pattern": "["}, "is not a regular expression"),
        ({"name": "drop_words", "words": []}, "length >= 1"),
        ({"name": "shuffle_words", "window": 1}, ">= 2"),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_text(options, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_steps([options], seed=0)
