"""Say in words what a field accepts, and what it got instead.

Annotated[int, Meta(ge=1)]     ->  "an integer of at least 1"
Literal["fp32", "bf16"] | None ->  "one of fp32, bf16, or null"
"""

import math
from typing import Any, cast

from msgspec import inspect as types

UNBOUNDED = 1e15  # bounds beyond this exist to catch accidents; nobody needs to read them
MAX_SHOWN = 60


def describe(kind: types.Type) -> str:
    """Return what values of this type are, in words."""
    if isinstance(kind, types.Metadata):
        return _description(kind) or describe(kind.type)
    if isinstance(kind, types.UnionType):
        members = [describe(member) for member in kind.types if not isinstance(bare(member), types.NoneType)]
        members += ["null"] if len(members) < len(kind.types) else []
        return ", or ".join(members)
    if isinstance(kind, types.IntType | types.FloatType):
        return ("an integer" if isinstance(kind, types.IntType) else "a number") + _range(kind)
    if isinstance(kind, types.LiteralType):
        values = [show(value) if not isinstance(value, str) else value for value in kind.values]
        return f"one of {', '.join(values)}" if len(values) > 1 else values[0]
    if isinstance(kind, types.VarTupleType | types.ListType):
        item = describe(kind.item_type)
        return "a list" if item == "anything" else f"a list of: {item}"
    if isinstance(kind, types.StrType):
        return "text" + (" that is not empty" if kind.min_length else "")
    return _NAMES.get(type(kind), "anything")


def type_name(kind: types.Type) -> str:
    """Return the name of a type for a table, without its range."""
    inner = bare(kind)
    if isinstance(inner, types.UnionType):
        return " or ".join(type_name(member) for member in inner.types)
    if isinstance(inner, types.VarTupleType | types.ListType):
        item = type_name(inner.item_type)
        return "list" if item == "anything" else f"list of {item}"
    if isinstance(inner, types.LiteralType):
        return ", ".join(f"`{value}`" for value in inner.values)
    return _SHORT_NAMES.get(type(inner), "anything")


def range_text(kind: types.Type) -> str:
    """Return the bounds of the numbers and the form of the text that a type admits, or an empty string."""
    if isinstance(kind, types.Metadata):
        return _description(kind) or range_text(kind.type)
    if isinstance(kind, types.UnionType):
        return "; ".join(filter(None, (range_text(member) for member in kind.types)))
    if isinstance(kind, types.VarTupleType | types.ListType):
        return range_text(kind.item_type)
    if isinstance(kind, types.IntType | types.FloatType):
        return ", ".join(f"{word} {_limit(limit)}" for word, limit in bounds(kind))
    return "not empty" if isinstance(kind, types.StrType) and kind.min_length else ""


def show(value: object) -> str:
    """Return `value` as the user would write it, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "infinity", -math.inf: "-infinity"}.get(value, "nan")
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | int | float):
        text = repr(value)
        return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"
    return f"a value of type {type(value).__name__}"


def bare(kind: types.Type) -> types.Type:
    """Return the type without the metadata around it."""
    while isinstance(kind, types.Metadata):
        kind = kind.type
    return kind


def bounds(kind: types.IntType | types.FloatType) -> list[tuple[str, float]]:
    """Return the bounds worth reading, as (words, limit)."""
    return [(words, limit) for words, limit in _all_bounds(kind) if abs(limit) < UNBOUNDED]


def unspoken_bound(kind: types.Type, value: object) -> str:
    """Return the upper bound that `describe` leaves out and `value` is beyond, in words, or an empty string."""
    if not isinstance(kind, types.IntType | types.FloatType) or not isinstance(value, int | float):
        return ""
    beyond = [f"{words} {limit:g}" for words, limit in _all_bounds(kind) if UNBOUNDED <= limit < value]
    return " and ".join(beyond)


def _all_bounds(kind: types.IntType | types.FloatType) -> list[tuple[str, float]]:
    pairs = (("at least", kind.ge), ("greater than", kind.gt), ("at most", kind.le), ("below", kind.lt))
    return [(words, limit) for words, limit in pairs if limit is not None]


def _description(kind: types.Metadata) -> str:
    extra: dict[str, Any] = cast("dict[str, Any]", kind.extra_json_schema or {})  # pyright: ignore[reportUnknownMemberType]
    return str(extra.get("description", ""))


def _range(kind: types.IntType | types.FloatType) -> str:
    found = bounds(kind)
    if not found:
        return ""
    words = " and ".join(f"{word} {_limit(limit)}" for word, limit in found)
    return f" of {words}" if words.startswith("at ") else f" {words}"


def _limit(limit: float) -> str:
    return f"{limit:,.0f}" if limit == int(limit) else f"{limit:g}"


_SHORT_NAMES: dict[type[Any], str] = {
    types.IntType: "integer",
    types.FloatType: "number",
    types.StrType: "text",
    types.BoolType: "boolean",
    types.NoneType: "null",
    types.DictType: "mapping",
}
_NAMES: dict[type[Any], str] = {
    types.BoolType: "true or false",
    types.NoneType: "null",
    types.DictType: "a mapping",
    types.StructType: "a section of fields",
}
