"""Read YAML by the core rules of YAML 1.2, with the place of every key and value.

    1e-4 -> float    no -> "no"    010 -> 10    0o10 -> 8    1_000 -> "1_000"    12:30 -> "12:30"    2024-01-01 -> text

PyYAML's parser gives the events; what a plain scalar means, aliases and duplicate keys are decided here, because PyYAML
follows YAML 1.1 and drops all but the last of equal keys.
"""

import importlib
import math
import re
from collections.abc import Iterator
from typing import Any

from foundry_config.origins import Node, Place, Source
from foundry_config.problems import Problem
from foundry_config.tree_builder import TooMuch, TreeBuilder

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INTEGER = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)\Z")
NANS = frozenset({".nan", ".NaN", ".NAN"})
MAX_DIGITS = 4000  # Python refuses to turn longer text into an integer
TAG = "tag:yaml.org,2002:"
HINTS = {  # what libyaml says -> what mostly helps
    "mapping values are not allowed": "indent this line like its neighbours, or put text that holds `: ` in quotes",
    "did not find expected key": "indent this line like its neighbours, and close quotes and brackets before it",
    "did not find expected '-' indicator": "items of this list begin with `- `",
    "did not find expected ','": "the list or mapping is not closed, or a comma is missing",
    "unknown escape character": "write `\\\\`, or use single quotes",
}


def read_yaml(text: str, source: Source, problems: list[Problem]) -> Node | None:
    """Return the tree of the one document in `text`, or None where it cannot be read at all.

    Everything that is wrong is added to `problems`; a tree may come back all the same (a duplicate key).
    """
    import yaml  # here and not above: `import foundry_config` stays without it

    builder = TreeBuilder(source, problems)
    try:
        _build(_events(text), builder)
    except TooMuch:
        return None
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(error, text, builder))
        return None
    return builder.root


def resolve(text: str) -> Any:
    """Return the value of a plain scalar by the core rules of YAML 1.2.

    >>> [resolve(text) for text in ("1e-4", "no", "010", "0x10", "~", "1.10")]
    [0.0001, 'no', 10, 16, None, 1.1]
    """
    if text in NULLS:
        return None
    if text in BOOLS:
        return BOOLS[text]
    if text[0] not in "-+.0123456789":
        return text
    if INTEGER.match(text) and len(text) <= MAX_DIGITS:
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if FLOAT.match(text):
        return float(text)
    if infinite := INFINITE.match(text):
        return -math.inf if infinite[1] == "-" else math.inf
    return math.nan if text in NANS else text


def _events(text: str) -> Iterator[Any]:
    parser = _parser(text)
    while (event := parser.get_event()) is not None:
        yield event


def _parser(text: str) -> Any:
    try:  # 8 times faster than the one in Python, and in every wheel of PyYAML
        libyaml: Any = importlib.import_module("yaml.cyaml")
    except ImportError:  # pragma: no cover
        return importlib.import_module("yaml").SafeLoader(text)
    return libyaml.CParser(text)


def _build(events: Iterator[Any], builder: TreeBuilder) -> None:
    anchors: dict[str, tuple[Node, int]] = {}
    started: list[tuple[str | None, int]] = []
    documents = 0
    for event in events:
        kind = type(event).__name__
        mark = event.start_mark
        place = builder.place(mark.line + 1, mark.column + 1)
        if kind == "ScalarEvent":
            _scalar(event, place, builder, anchors)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            _refuse_structured_key(builder, place)
            started.append((event.anchor, builder.nodes))
            _check_tag(event, ("map",) if kind == "MappingStartEvent" else ("seq",), place, builder)
            builder.start({} if kind == "MappingStartEvent" else [], place)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            anchor, before = started.pop()
            _close(builder, anchor, before, anchors)
        elif kind == "AliasEvent":
            _alias(event.anchor, place, builder, anchors)
        elif kind == "DocumentStartEvent":
            documents += 1
            if documents > 1:
                builder.stop(place, "a second document (`---`); a config is one document")


def _scalar(event: Any, place: Place, builder: TreeBuilder, anchors: dict[str, tuple[Node, int]]) -> None:
    if builder.wants_key():
        builder.key(event.value, place)
        return
    node = builder.scalar(_scalar_value(event, place, builder), place)
    if event.anchor:
        anchors[event.anchor] = (node, 1)


def _scalar_value(event: Any, place: Place, builder: TreeBuilder) -> Any:
    if event.tag in (None, "!"):
        return resolve(event.value) if event.implicit[0] and event.tag is None else event.value
    if event.tag == TAG + "str":
        return event.value
    value = resolve(event.value)
    names = {bool: "bool", int: "int", float: "float", type(None): "null", str: "str"}
    if event.tag == TAG + "float" and type(value) is int:
        return float(value)
    _check_tag(event, (names[type(value)],), place, builder)
    return value


def _check_tag(event: Any, allowed: tuple[str, ...], place: Place, builder: TreeBuilder) -> None:
    if event.tag not in (None, "!") and event.tag not in {TAG + name for name in allowed}:
        shown = event.tag.replace(TAG, "!!")
        builder.problem(place, f"the tag {shown!r} does not fit here; a config needs no tags, leave it out")


def _refuse_structured_key(builder: TreeBuilder, place: Place) -> None:
    if builder.wants_key():
        builder.stop(place, "a key must be text, not a list or a mapping")


def _close(builder: TreeBuilder, anchor: str | None, before: int, anchors: dict[str, tuple[Node, int]]) -> None:
    node = builder.end()
    if anchor:
        anchors[anchor] = (node, builder.nodes - before)


def _alias(name: str, place: Place, builder: TreeBuilder, anchors: dict[str, tuple[Node, int]]) -> None:
    if builder.wants_key():
        builder.stop(place, "a key must be text, not an alias")
    if name not in anchors:
        builder.stop(place, f"the alias *{name} stands before or inside its anchor &{name}")
    target, size = anchors[name]
    builder.alias(target, size, place)


def _syntax_problem(error: Any, text: str, builder: TreeBuilder) -> Problem:
    """Say what libyaml could not read, what that mostly comes from, and where it begins."""
    found = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None) or ""
    at, since = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    hint = next((hint for words, hint in HINTS.items() if words in found), "")
    if "cannot start any token" in found and at:
        char = text[at.index : at.index + 1]
        hint = "indent with spaces, not with a tab" if char == "\t" else f"put text that begins with {char!r} in quotes"
    elif "end of stream" in found and "quoted" in context:
        at, hint = since, "this quote is never closed"
    elif "expected ':'" in found and "simple key" in context:
        at, hint = since, "this line is neither `key: value` nor an item of a list"
    elif context and since and at and since.line < at.line:
        context += f" that begins on line {since.line + 1}"
    message = f"not valid YAML: {found}" + (f" ({context})" if context else "") + (f"; {hint}" if hint else "")
    return Problem(builder.place(at.line + 1, at.column + 1) if at else builder.place(1, 1), "", message)
