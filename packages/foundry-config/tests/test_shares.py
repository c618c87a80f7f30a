"""Shares of a run as whole steps."""

from decimal import ROUND_CEILING, Decimal

from hypothesis import given
from hypothesis import strategies as st

from foundry_config.shares import steps_of


@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(0, 10**7))
def test_a_share_is_rounded_up_from_what_its_decimals_say(digits, places, total):
    written = Decimal(digits).scaleb(-places)

    assert steps_of(float(written), total) == int((written * total).to_integral_value(ROUND_CEILING))
