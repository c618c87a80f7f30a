"""Problems and how they are shown; errors and what they promise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config import (
    CheckpointError,
    ConfigError,
    DataError,
    FoundryError,
    MemoryExhaustedError,
    NonFiniteError,
    ResumeMismatchError,
    RunLockedError,
    StorageError,
    WorkerError,
)
from foundry_config.origins import Node, Place, Source, locate, merge, plain
from foundry_config.problems import CONTEXT_COLUMNS, Problem, refusal, visible

SOURCE = Source("a.yaml", ("first: 1", "second:\t" + "x" * 300 + "!"))
trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6
)


def tree(data) -> Node:
    place = Place(SOURCE, 1, 1)
    return Node({key: tree(value) for key, value in data.items()} if isinstance(data, dict) else data, place, place)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError, 2),
        (DataError, 3),
        (CheckpointError, 4),
        (ResumeMismatchError, 5),
        (RunLockedError, 6),
        (StorageError, 7),
        (NonFiniteError, 8),
        (MemoryExhaustedError, 9),
        (WorkerError, 10),
    ],
)
def test_every_error_of_a_user_has_its_exit_code(error, code):
    assert issubclass(error, FoundryError)
    assert error("x").exit_code == code


@given(st.text())
def test_what_is_shown_is_printable_and_keeps_printable_text(text):
    shown = visible(text)

    assert shown.isprintable()
    assert text.isprintable() is False or shown == text


def test_an_excerpt_points_at_the_column_even_in_a_long_line():
    problem = Problem(Place(SOURCE, 2, 309), "second", "wrong")

    line, caret = problem.excerpt().split("\n")

    assert len(line) < CONTEXT_COLUMNS + 20
    assert line[caret.index("^")] == "!"


@pytest.mark.parametrize("place", [None, Place(SOURCE), Place(SOURCE, 3, 1)])
def test_without_a_line_there_is_no_excerpt(place):
    assert Problem(place, "a", "wrong").excerpt() == ""


def test_problems_are_listed_by_file_line_and_column_overrides_last():
    problems = [
        Problem(Place(Source("--set a=1")), "a", "wrong"),
        Problem(Place(SOURCE, 2, 1), "second", "wrong"),
        Problem(Place(SOURCE, 1, 8), "first", "wrong"),
    ]

    error = refusal(problems, name="a.yaml")

    assert str(error) == (
        "3 problems in a.yaml:\na.yaml:1:8: first: wrong\na.yaml:2:1: second: wrong\n--set a=1: a: wrong"
    )
    assert error.with_source().splitlines()[2:4] == ["    1 | first: 1", "      |        ^"]


def test_a_single_problem_has_no_heading():
    assert str(refusal([Problem(None, "a", "wrong")], name="x")) == "a: wrong"


def test_an_error_without_problems_shows_its_message_with_source():
    assert ConfigError("just this").with_source() == "just this"


@pytest.mark.slow
@given(trees, trees)
def test_merging_keeps_what_is_below_and_prefers_what_is_above(below, above):
    def merged(low, high):
        if not (isinstance(low, dict) and isinstance(high, dict)):
            return high
        return {**low, **{key: merged(low[key], value) if key in low else value for key, value in high.items()}}

    assert plain(merge(tree(below), tree(above))) == merged(below, above)


def test_a_place_that_does_not_exist_is_that_of_its_nearest_ancestor():
    outer = Place(SOURCE, 2, 5)
    root = Node({"a": Node({}, outer, outer)}, Place(SOURCE, 1, 1))

    assert locate(root, ("a", "b", "c")) == outer
    assert locate(root, ("z",)) == Place(SOURCE, 1, 1)
    assert locate(root, ("a", 3)) == outer
