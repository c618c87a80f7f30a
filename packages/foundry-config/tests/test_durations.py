"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config import ConfigError, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("3h50m", 13800), ("1.5d", 129600), ("0s", 0), ("1d1h1m1s", 90061)]
)
def test_a_duration_is_the_sum_of_its_parts(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "3 h", "-1h", "3h\n", "1e3s", "٣h", "3w"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="such as 90s, 3h50m"):
        parse_duration(text)


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from("smhd")), min_size=1, max_size=4))
def test_any_sequence_of_numbers_and_units_is_read(parts):
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    assert parse_duration("".join(f"{n}{u}" for n, u in parts)) == sum(n * units[u] for n, u in parts)
