"""Finding a named choice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config import ConfigError, did_you_mean, pick

TABLE = {"adamw": 1, "sgd": 2, "muon": 3}


def test_a_known_name_is_taken_from_the_table():
    assert pick("sgd", TABLE, kind="optimizer") == 2


def test_an_unknown_name_is_refused_with_the_nearest_one_and_all():
    with pytest.raises(ConfigError, match=r"unknown optimizer 'adamv'. Did you mean 'adamw'\? Known: adamw, sgd, muon"):
        pick("adamv", TABLE, kind="optimizer")


def test_a_reference_is_imported():
    assert pick("math:sqrt", TABLE, kind="optimizer")(9) == 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module_x:f", "cannot import module 'no_such_module_x'"),
        ("math:sqr", "has no 'sqr'. Did you mean 'sqrt'"),
    ],
)
def test_a_reference_that_leads_nowhere_says_why(reference, message):
    with pytest.raises(ConfigError, match=message):
        pick(reference, TABLE, kind="optimizer")


@given(st.text(max_size=20))
def test_a_hint_names_a_known_name_or_nothing(name):
    hint = did_you_mean(name, TABLE)

    assert hint == "" or any(repr(known) in hint for known in TABLE)
