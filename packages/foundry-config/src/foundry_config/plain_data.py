"""Refuse what is no data: infinities, objects, text that is no Unicode, and nesting or size without end.

Data from a file has passed the bounds of its reader; data built in Python has not, and may even hold itself.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import msgspec

from foundry_config.describing import show
from foundry_config.origins import Path
from foundry_config.shapes import is_list, is_mapping
from foundry_config.tree_builder import MAX_DEPTH, MAX_NODES

MAX_KEY = 256
MAX_BITS = 4096
SCALARS = frozenset({str, int, float, bool, type(None)})


class Finding(NamedTuple):
    """What is wrong with the value at `path`, or with its key."""

    path: Path
    message: str
    at_key: bool = False
    is_missing: bool = False
    """Whether nothing stands at `path`, though something must."""


def unfit(data: Any) -> Iterator[Finding]:
    """Yield what no field may hold, anywhere in `data`."""
    waiting: list[tuple[Any, Path]] = [(data, ())]
    seen = 0
    while waiting:
        value, path = waiting.pop()
        seen += 1
        if seen > MAX_NODES or len(path) > MAX_DEPTH:
            yield Finding(
                path[:3], f"holds more than {MAX_NODES} values, or is nested more than {MAX_DEPTH} levels deep"
            )
            return
        if type(value) in SCALARS:
            if message := _scalar_problem(value):
                yield Finding(path, message)
        elif is_mapping(value):
            for key, child in cast(Mapping[Any, Any], value).items():
                if isinstance(key, str) and len(key) <= MAX_KEY and _encodable(key):
                    waiting.append((child, (*path, key)))
                else:
                    yield Finding(path, f"a key must be text of at most {MAX_KEY} characters, got {show(key)}")
        elif is_list(value):
            waiting.extend((item, (*path, index)) for index, item in enumerate(value))
        elif not isinstance(value, msgspec.Struct):
            kinds = "text, a number, true, false, null, a list or a mapping"
            hint = "; write str() of it" if hasattr(value, "__fspath__") else ""
            yield Finding(path, f"must be {kinds}, got {show(value)}{hint}")


def _scalar_problem(value: Any) -> str | None:
    if isinstance(value, str):
        return None if _encodable(value) else "holds half of a surrogate pair, which is not text"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"must be a finite number, got {show(value)}"
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"must be smaller, got {show(value)}"
    return None


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
