"""Words of a corpus."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_data import words
from foundry_data.words import count_words


@given(st.text(alphabet="ab \t\n\r\u00a0\u2028\u200b"))
def test_count_words_counts_runs_without_whitespace(text):
    assert count_words(text) == len(re.findall(r"\S+", text))


@given(st.text(alphabet="ab \n\u2028"), st.integers(1, 5))
def test_a_giant_text_is_counted_in_slices(text, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "SLICE", size)

        assert count_words(text) == len(text.split())


@given(st.text(), st.text())
def test_count_words_of_texts_joined_by_a_line_break_is_their_sum(one, other):
    assert count_words(f"{one}\n{other}") == count_words(one) + count_words(other)
