"""Numbers that JSON has no words for."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.spoken_numbers import speakable

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_what_is_speakable_is_json_and_finite_values_are_unchanged(value):
    spoken = speakable(value)

    assert json.loads(json.dumps(spoken, allow_nan=False)) == spoken
    if "nan" not in repr(value) and "inf" not in repr(value):
        assert spoken == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_the_words_are_read_back_as_the_numbers(number):
    (spoken,) = speakable((number,))

    assert isinstance(spoken, str) and repr(float(spoken)) == repr(number)
