"""TOML with places; what is valid and what it means is the standard library's word."""

import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.origins import Source, locate, plain
from foundry_config.toml_reader import read_toml

DOCUMENT = '''\
title = "a # b"            # comment
"quoted key" = 'lit'
a.b.c = 1.5
[server]
hosts = [
  "alpha",  # one
  {name = "beta", port = 1},
]
text = """
[not a table]
x = 1 """
literal = \'\'\'
y = ' = 2\'\'\'
[server.limits]
soft = -1e3
when = 1979-05-27 07:32:00
[[run]]
seed = 1
[[run]]
seed = 2
[run.inner]
deep = true
[[run.list]]
x = 0x1F
'''


def read(text):
    problems = []
    node = read_toml(text, Source("x.toml", tuple(text.split("\n"))), problems)
    return node, [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("path", "place", "key"),
    [
        (("title",), "1:9", "1:1"),
        (("quoted key",), "2:16", "2:1"),
        (("a", "b", "c"), "3:9", "3:5"),
        (("a",), "3:1", "3:1"),
        (("server",), "4:1", "4:2"),
        (("server", "hosts", 0), "6:3", "6:3"),
        (("server", "hosts", 1, "port"), "7:26", "7:19"),
        (("server", "text"), "9:8", "9:1"),
        (("server", "literal"), "12:11", "12:1"),
        (("server", "limits", "soft"), "15:8", "15:1"),
        (("server", "limits", "when"), "16:8", "16:1"),
        (("run", 1, "seed"), "20:8", "20:1"),
        (("run", 1, "inner", "deep"), "22:8", "22:1"),
        (("run", 1, "list", 0, "x"), "24:5", "24:1"),
    ],
)
def test_values_and_keys_have_places(path, place, key):
    node, problems = read(DOCUMENT)

    assert problems == []
    assert plain(node) == tomllib.loads(DOCUMENT)
    assert str(locate(node, path)).removeprefix("x.toml:") == place
    assert str(locate(node, path, at_key=True)).removeprefix("x.toml:") in (key, place)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[a]\n[a]\n", "x.toml:2:"),
        ("a = {b = 1, b = 2}\n", "x.toml:1:"),
        ("a.b = 1\n[a]\nb = 2\n", "x.toml:"),
    ],
)
def test_keys_given_twice_are_refused_with_a_place(text, place):
    node, problems = read(text)

    assert node is None
    assert problems[0].startswith(place)
    assert "given twice" in problems[0]


def test_what_comes_beside_keys_given_twice_is_read():
    node, problems = read(
        "a = 1\n  a = 2\nb.c = 3\n[d]\n'e' = 1\n[f] # g\nx = 1\ny = 2\nx = [3]\nb = '''\nx = 5'''\n[h]\ne = 1\ne = 2"
    )

    assert problems == [
        "x.toml:2:3: a: this key is given twice; it stands on line 1 already",
        "x.toml:9:1: f.x: this key is given twice; it stands on line 7 already",
        "x.toml:14:1: h.e: this key is given twice; it stands on line 13 already",
    ]
    assert plain(node) == {
        "a": 1,
        "b": {"c": 3},
        "d": {"e": 1},
        "f": {"x": 1, "y": 2, "b": "x = 5"},
        "h": {"e": 1},
    }


@pytest.mark.parametrize(
    "text",
    ["a = 1\na = [1,\n2]\n", 'a = 1\na = """\nb = """\n', "a=1\n[a]\n", "a = [1]\n[[a]]\nb = 1\n", "[[a]]\n[a]\n"],
)
def test_what_is_given_twice_and_is_no_line_of_its_own_ends_the_reading(text):
    node, problems = read(text)

    assert node is None
    assert "given twice" in problems[0]


@pytest.mark.parametrize(("text", "place"), [("a = ", "x.toml:1:"), ("a 1", "x.toml:1:3"), ("\n[a", "x.toml:2:")])
def test_broken_syntax_has_a_place(text, place):
    node, problems = read(text)

    assert node is None
    assert problems[0].startswith(place)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        ".".join(["a"] * 60_000) + " = 1",
        ".".join(['"a"'] * 50_000) + " = 1",
        "a = " + "9" * 5000,
        "a = [" + "1," * 100_000 + "]",
        "a = " + "[" * 45 + "]" * 45,
        ".".join(["a"] * 60) + " = 1",
    ],
)
def test_what_has_no_end_is_refused_within_a_second(text):
    start = time.process_time()

    node, problems = read(text)

    assert node is None
    assert len(problems) == 1
    assert time.process_time() - start < 1


@pytest.mark.slow
@given(st.dictionaries(st.from_regex(r"\A[a-z_-]{1,6}\Z"), st.integers() | st.booleans(), max_size=6), st.data())
def test_every_value_of_a_flat_table_is_located_on_its_line(table, data):
    text = "[t]\n" + "".join(f"{key} = {str(value).lower()}\n" for key, value in table.items())

    node, problems = read(text)

    assert problems == []
    for line, key in enumerate(table, start=2):
        assert str(locate(node, ("t", key))) == f"x.toml:{line}:{len(key) + 4}"
