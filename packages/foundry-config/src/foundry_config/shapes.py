"""Tell mappings and lists apart from scalars, in a way that a type checker follows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeGuard

WRONG: Final[Any] = object()
"""Stands in a list, as rules see it, for an item that is itself wrong."""


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Say whether `value` maps keys to values."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Say whether `value` is a list or a tuple; text is neither."""
    return isinstance(value, list | tuple)


def right_items(items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Yield (index, item) for every item that is not `WRONG`."""
    return ((index, item) for index, item in enumerate(items) if item is not WRONG)
