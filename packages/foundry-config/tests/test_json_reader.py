"""JSON with places, bounded, and with every key once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.json_reader import read_json
from foundry_config.origins import Source, locate, plain

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=12,
)


def read(text):
    problems = []
    node = read_json(text, Source("x.json", tuple(text.split("\n"))), problems)
    return node, [str(problem) for problem in problems]


@pytest.mark.slow
@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_what_the_standard_library_writes_is_read_back(value, indent, ascii_only):
    node, problems = read(json.dumps(value, indent=indent, ensure_ascii=ascii_only))

    assert plain(node) == value
    assert problems == []


def test_values_and_keys_have_places_and_keys_given_twice_are_refused():
    node, problems = read('{\n  "a": [1, {"b": "x\\"]"}],\n  "a": 2\n}')

    assert str(locate(node, ("a",))) == "x.json:3:8"
    assert problems == ["x.json:3:3: a: this key is given twice; it stands on line 2 already"]


@pytest.mark.parametrize(
    ("text", "place"),
    [('{"a": 1,}', "x.json:1:"), ("{\n 'a': 1}", "x.json:2:2"), ("", "x.json:1:1"), ("[1] 2", "x.json:1:5")],
)
def test_broken_syntax_has_a_place(text, place):
    node, problems = read(text)

    assert node is None
    assert problems[0].startswith(place)


@pytest.mark.parametrize("text", ["[" * 200_000, "[" * 100 + "]" * 100, '{"a":' * 60 + "1" + "}" * 60, "9" * 5000])
def test_endless_nesting_and_numbers_are_refused(text):
    node, problems = read(text)

    assert node is None
    assert len(problems) == 1


def test_more_values_than_a_config_could_have_are_refused():
    node, problems = read("[" + "1," * 30_000 + "1]")

    assert node is None
    assert "holds more than" in problems[0]
