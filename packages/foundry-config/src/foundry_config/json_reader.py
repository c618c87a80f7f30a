"""Read JSON (RFC 8259) with the place of every key and value.

The standard library decides what is valid and says where it is not; one pass over the tokens of the then valid text
gives the places and finds keys given twice, of which `json.loads` would keep the last without a word.
"""

import bisect
import json
import re
from typing import Any

from foundry_config.origins import Node, Place, Source
from foundry_config.problems import Problem
from foundry_config.tree_builder import TooMuch, TreeBuilder

TOKEN = re.compile(r'[ \t\r\n]*([{}\[\]:,]|"(?:[^"\\]|\\.)*"|[^ \t\r\n{}\[\]:,"]+)')


class LineIndex:
    """Turns an offset in a text into a line and a column, both from 1."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def __call__(self, offset: int) -> tuple[int, int]:
        line = bisect.bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


def read_json(text: str, source: Source, problems: list[Problem]) -> Node | None:
    """Return the tree of `text`, or None where it cannot be read at all; what is wrong is added to `problems`."""
    builder = TreeBuilder(source, problems)
    if builder.is_too_much(text):
        return None
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        problems.append(Problem(builder.place(error.lineno, error.colno), "", f"not valid JSON: {error.msg}"))
        return None
    except RecursionError:
        problems.append(Problem(builder.place(1, 1), "", "not valid JSON: nested too deep"))
        return None
    except ValueError as error:  # an integer of more digits than Python reads
        problems.append(Problem(builder.place(1, 1), "", f"not valid JSON: {error}"))
        return None
    try:
        _build(text, builder)
    except TooMuch:
        return None
    return builder.root


def _build(text: str, builder: TreeBuilder) -> None:
    position = LineIndex(text)
    for match in TOKEN.finditer(text):
        token = match[1]
        place = builder.place(*position(match.start(1)))
        if token in "{[":
            builder.start({} if token == "{" else [], place)
        elif token in "}]":
            builder.end()
        elif token not in ":,":
            _scalar(json.loads(token), place, builder)


def _scalar(value: Any, place: Place, builder: TreeBuilder) -> None:
    if builder.wants_key():
        builder.key(value, place)
    else:
        builder.scalar(value, place)
