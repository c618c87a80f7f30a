"""Numbers, sizes, times and foreign text as a person reads them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_cli.figures import count, duration, one_line, operations, plain, scaled, size


@given(st.text())
def test_plain_text_holds_no_character_that_steers_a_terminal(text):
    shown = plain(text)

    assert not [c for c in shown if c not in "\n\t" and unicodedata.category(c) in {"Cc", "Cf", "Cs"}]


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_plain_leaves_ordinary_text_as_it_is(text):
    assert plain(text) == text


def test_plain_spells_escape_sequences_and_direction_overrides():
    assert plain("\x1b[2J\x9b\u202e\x00") == "\\x1b[2J\\x9b\\u202e\\x00"


@given(st.text(), st.integers(2, 50))
def test_one_line_is_one_line_within_its_limit(text, limit):
    shown = one_line(text, limit=limit)

    assert len(shown) <= limit
    assert len(shown.splitlines()) <= 1 or "\u2028" in text or "\u2029" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (59.4, "59 s"), (65, "1 min 05 s"), (3725, "1 h 02 min"), (200_000, "2 d 07 h")],
)
def test_duration_uses_the_two_largest_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1.5 * 2**30, "1.5 GiB"), (2**61, "2048.0 PiB")],
)
def test_size_uses_binary_units(number, text):
    assert size(number) == text


@pytest.mark.parametrize(("number", "text"), [(999, "999"), (1234, "1.23k"), (124_000_000, "124M"), (3.2e18, "3.2E")])
def test_scaled_has_three_digits_and_a_letter(number, text):
    assert scaled(number) == text


def test_operations_have_their_unit():
    assert [operations(number) for number in (12, 8.75e6, 3.14e12)] == ["12 FLOP", "8.75 MFLOP", "3.14 TFLOP"]


def test_count_groups_digits():
    assert count(1234567.4) == "1,234,567"
