"""YAML by the core rules of version 1.2, bounded, with places."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.origins import Source, locate, plain
from foundry_config.tree_builder import MAX_DEPTH, MAX_NODES
from foundry_config.yaml_reader import read_yaml, resolve


def read(text):
    problems = []
    node = read_yaml(text, Source("x.yaml", tuple(text.split("\n"))), problems)
    return node, [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-0", 0),
        ("+3", 3),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("Null", None),
        ("1.2.3", "1.2.3"),
        ("-", "-"),
        (".", "."),
        ("1e", "1e"),
        ("٣", "٣"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("+.inf", math.inf),
        (".Nan", ".Nan"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_a_plain_scalar_means_what_the_core_rules_say(text, value):
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_nan_is_recognised():
    assert math.isnan(resolve(".nan"))


def test_quoted_and_block_scalars_are_text():
    node, problems = read("a: '1'\nb: \"no\"\nc: |\n  5\nd: !!str 7\ne: ! 8\n")

    assert plain(node) == {"a": "1", "b": "no", "c": "5\n", "d": "7", "e": "8"}
    assert problems == []


def test_tags_of_the_core_rules_are_taken_where_they_fit():
    node, problems = read("a: !!float 1\nb: !!int 3\nc: !!null ~\nd: !!bool true\ne: !!map {}\nf: !!seq []\n")

    assert plain(node) == {"a": 1.0, "b": 3, "c": None, "d": True, "e": {}, "f": []}
    assert problems == []


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!foo", "!!set", "!!int", "!!timestamp"])
def test_other_tags_are_refused_and_nothing_is_built_from_them(tag):
    _, problems = read(f"a: 1\nb: {tag} x\n")

    assert problems == [
        f"x.yaml:2:4: b: the tag '{tag.replace('!!', '!!')}' does not fit here; a config needs no tags, leave it out"
    ]


def test_keys_given_twice_are_refused_at_every_level():
    _, problems = read("a: 1\nb:\n  c: 1\n  'c': 2\na: 3\nd: [{e: 1, e: 2}]\n")

    assert problems == [
        "x.yaml:4:3: b.c: this key is given twice; it stands on line 3 already",
        "x.yaml:5:1: a: this key is given twice; it stands on line 1 already",
        "x.yaml:6:12: d[0].e: this key is given twice; it stands on line 6 already",
    ]


def test_keys_are_text_as_they_are_written():
    node, _ = read("no: 1\n1: 2\n~: 3\n? long\n: 4\n")

    assert plain(node) == {"no": 1, "1": 2, "~": 3, "long": 4}


@pytest.mark.parametrize("text", ["[a]: 1", "? {a: 1}\n: 2", "x: &k 1\n*k : 2"])
def test_keys_that_are_no_text_are_refused(text):
    node, problems = read(text)

    assert node is None
    assert "a key must be text" in problems[0]


def test_aliases_repeat_what_their_anchor_holds():
    node, problems = read("a: &x {b: [1, &y two]}\nc: *x\nd: *y\n")

    assert plain(node) == {"a": {"b": [1, "two"]}, "c": {"b": [1, "two"]}, "d": "two"}
    assert problems == []


@pytest.mark.parametrize("text", ["a: &x {b: *x}", "a: *x\nb: &x 1", "&x [*x]"])
def test_aliases_to_what_is_not_finished_are_refused(text):
    node, problems = read(text)

    assert node is None
    assert "the alias *x stands before or inside its anchor &x" in problems[0]


def test_a_document_that_grows_through_aliases_is_refused_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    start = time.process_time()

    node, problems = read("\n".join(lines))

    assert node is None
    assert f"holds more than {MAX_NODES} values" in problems[0]
    assert time.process_time() - start < 1


def test_nesting_through_aliases_counts():
    lines = ["a0: &a0 " + "[" * 15 + "]" * 15]
    lines += [f"a{i}: &a{i} " + "[" * 15 + f"*a{i - 1}" + "]" * 15 for i in range(1, 4)]

    node, problems = read("\n".join(lines))

    assert node is None
    assert f"nested more than {MAX_DEPTH} levels deep" in problems[0]


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{a: " * 50_000, "- " * 100_000, "? " * 1000])
def test_deep_nesting_is_refused_at_once(text):
    start = time.process_time()

    node, problems = read(text)

    assert node is None
    assert len(problems) == 1
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: [1\nb: 2\n", "x.yaml:2:2"), ("a:\n\t- b\n", "x.yaml:2:1"), ("a: 'b", "x.yaml:1:"), ("a: b: c", "x.yaml:1:5")],
)
def test_broken_syntax_has_a_place(text, place):
    node, problems = read(text)

    assert node is None
    assert problems[0].startswith(place)
    assert "not valid YAML" in problems[0]


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("a:\n\tb: 1\n", "2:1", "; indent with spaces, not with a tab"),
        ("é: @x\n", "1:4", "; put text that begins with '@' in quotes"),
        ("a: b: c\n", "1:5", "put text that holds `: ` in quotes"),
        ('a: 1\nb: "x\nc: 1\n', "2:4", "; this quote is never closed"),
        ("b: 'x", "1:4", "; this quote is never closed"),
        ("a: 1\nb 2\nc: 3\n", "2:1", "; this line is neither `key: value` nor an item of a list"),
        ("a: 1\nb: [1, 2\nc: 3\n", "3:2", "that begins on line 2); the list or mapping is not closed"),
        ("a:\n  b: 1\n c: 2\n", "3:2", "; indent this line like its neighbours"),
        ("a: 'it's'\n", "1:8", "close quotes and brackets before it"),
        ('a: "\\q"\n', "1:5", "; write `\\\\`, or use single quotes"),
        ("- a\nb: 1\n", "2:1", "; items of this list begin with `- `"),
    ],
)
def test_common_mistakes_of_syntax_are_explained(text, place, hint):
    _, problems = read(text)

    assert problems[0].startswith(f"x.yaml:{place}: not valid YAML: ")
    assert hint in problems[0]


def test_values_and_keys_have_places():
    node, _ = read("a:\n  - b: 1\n    c: 2\n")

    assert str(locate(node, ("a", 0, "c"))) == "x.yaml:3:8"
    assert str(locate(node, ("a", 0, "c"), at_key=True)) == "x.yaml:3:5"
    assert str(locate(node, ("a", 5))) == "x.yaml:1:1"


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()))
def test_what_python_writes_as_a_number_is_read_back(value):
    text = (
        {True: "true", False: "false", None: "null"}.get(value, repr(value)) if type(value) is not int else str(value)
    )

    assert resolve(text) == value
