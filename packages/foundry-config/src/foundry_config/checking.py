"""Check data against the structs: one fast pass when all is well, a slow one that finds every problem when not.

`msgspec.convert` stops at the first error and knows nothing of rules between fields. So data that it refuses, or that
breaks a rule, is walked once more, field by field (`field_checker.py`), and a rule that needs a field which is itself
wrong is left out.
"""

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import msgspec

from foundry_config.describing import show
from foundry_config.field_checker import FieldChecker, split_path
from foundry_config.origins import Path
from foundry_config.plain_data import Finding, unfit
from foundry_config.shapes import is_mapping

StructT = TypeVar("StructT", bound=msgspec.Struct)

decoding: ContextVar[bool] = ContextVar("decoding", default=False)
"""True while msgspec builds structs whose data is checked here; their own check on construction then does nothing."""


def build(cls: type[StructT], data: object) -> tuple[StructT | None, list[Finding]]:
    """Return the struct that `data` makes, or None and everything that is wrong with it."""
    if not is_mapping(data):
        return None, [Finding((), f"must be a mapping of fields to values, got {show(data)}")]
    findings = list(unfit(data))
    if not findings:
        try:
            struct = _convert(data, cls)
        except msgspec.ValidationError:
            pass
        else:
            broken = list(broken_rules(struct, ()))
            return (None if broken else struct), broken
    return _build_slowly(cls, data, findings)


def broken_rules(struct: Any, path: Path) -> Iterator[Finding]:
    """Yield every broken rule between fields, of `struct` and of the sections in it."""
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, msgspec.Struct):
            yield from broken_rules(value, (*path, name))
    for field, message in struct.problems():
        yield Finding((*path, *split_path(field)), message)


def _build_slowly(
    cls: type[StructT], data: Mapping[str, Any], unfit_values: list[Finding]
) -> tuple[StructT | None, list[Finding]]:
    checker = FieldChecker(cls, unfit_values)
    normal = checker.check_root(data)
    if checker.findings:
        return None, checker.findings
    try:
        return _convert(normal, cls), []
    except msgspec.ValidationError as error:  # the walk has missed something: still no traceback
        return None, [Finding((), str(error))]


def _convert(data: Any, cls: type[StructT]) -> StructT:
    token = decoding.set(True)
    try:
        return msgspec.convert(data, cls)
    finally:
        decoding.reset(token)
