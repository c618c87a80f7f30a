"""Tell mappings and lists apart from scalars, in a way that a type checker follows."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Say whether `value` maps keys to values."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Say whether `value` is a list or a tuple; text is neither."""
    return isinstance(value, list | tuple)
