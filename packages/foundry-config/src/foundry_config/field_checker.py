"""Walk data field by field along the types of a struct, and note everything that is wrong.

It accepts exactly what `msgspec.convert` accepts (a test holds the two together), and besides it an integral float for
an integer: `1e6` is a good way to write a million.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, cast

import msgspec
from msgspec import inspect as types

from foundry_config.describing import bare, describe, show, unspoken_bound
from foundry_config.lookup import closest, did_you_mean
from foundry_config.origins import Path
from foundry_config.plain_data import Finding, unfit
from foundry_config.shapes import WRONG, is_list, is_mapping

YAML_1_1_BOOLS = frozenset({"yes", "no", "on", "off", "y", "n"})


class Unknown(Exception):
    """A rule asked for a field that is itself wrong."""


class Partial:
    """The fields of a section that are right; asking for another one raises `Unknown`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise Unknown(name) from None


class RightItems(tuple[Any, ...]):
    """A list of which some items are wrong, with `WRONG` in their place."""


class RightEntries(dict[str, Any]):
    """A mapping of which some entries are wrong, without those."""


class FieldChecker:
    """Checks data against one struct and keeps what it finds."""

    def __init__(self, cls: type[msgspec.Struct], found_already: Iterable[Finding] = ()) -> None:
        self.findings: list[Finding] = list(found_already)
        self._reported = {finding.path for finding in self.findings}
        self._tainted = {path[:length] for path in self._reported for length in range(len(path) + 1)}
        self._root = struct_info(cls)

    def check_root(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return `data` with every number in its right type."""
        return self._struct(self._root, data, ())[0]

    def check(self, kind: types.Type, value: Any, path: Path) -> tuple[Any, Any]:
        """Return `value` in its right type, twice: as data, and as rules see it."""
        inner = bare(kind)
        if isinstance(inner, types.StructType):
            if isinstance(value, inner.cls):
                return value, value
            if is_mapping(value):
                return self._struct(inner, value, path)
        elif isinstance(inner, types.VarTupleType | types.ListType) and is_list(value):
            return self._list(inner.item_type, value, path)
        elif isinstance(inner, types.DictType) and is_mapping(value):
            return self._entries(inner.value_type, value, path)
        elif isinstance(inner, types.UnionType):
            return self._union(kind, inner, value, path)
        elif _fits(inner, value):
            right = int(value) if _is_integral(inner, value) else value
            return right, right
        self._note(path, _wrong(kind, value))
        return value, value

    def _struct(self, info: types.StructType, data: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], Partial]:
        fields = {field.name: field for field in info.fields}
        normal: dict[str, Any] = {}
        known: dict[str, Any] = {}
        unknown = [key for key in data if _is_text(key) and key not in fields]
        for key in unknown:
            self._note((*path, key), unknown_field(self._root, path, key), at_key=True)
        misspelled = {closest(key, fields) for key in unknown}  # one mistake is one problem
        for name, field in fields.items():
            if name in data:
                before = len(self.findings)
                normal[name], view = self.check(field.type, data[name], (*path, name))
                wrong = len(self.findings) > before or (*path, name) in self._tainted
                if isinstance(view, Partial | RightItems | RightEntries) or not wrong:
                    known[name] = view
            elif field.required:
                if name not in misspelled:
                    self.findings.append(Finding((*path, name), _missing(field.type), at_key=True, is_missing=True))
            else:
                known[name] = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        self._rules(info.cls, Partial(known), path)
        return normal, Partial(known)

    def _list(self, kind: types.Type, values: Sequence[Any], path: Path) -> tuple[Any, Any]:
        """Check every item; rules see those that are right, so that they can say what is wrong with them."""
        items, wrong = self._children(kind, enumerate(values), path)
        view = RightItems(WRONG if index in wrong else item for index, item in items.items())
        return list(items.values()), view if wrong else tuple(items.values())

    def _entries(self, kind: types.Type, values: Mapping[str, Any], path: Path) -> tuple[Any, Any]:
        """Check every entry of a mapping; rules see those that are right."""
        entries, wrong = self._children(kind, values.items(), path)
        right = RightEntries((key, item) for key, item in entries.items() if key not in wrong)
        return entries, right if wrong else entries

    def _children(
        self, kind: types.Type, children: Iterable[tuple[str | int, Any]], path: Path
    ) -> tuple[dict[Any, Any], set[str | int]]:
        """Return what each child is in its right type, and the keys of those that are wrong."""
        right: dict[Any, Any] = {}
        wrong: set[str | int] = set()
        for key, value in children:
            before = len(self.findings)
            right[key] = self.check(kind, value, (*path, key))[0]
            if len(self.findings) > before or (*path, key) in self._tainted:
                wrong.add(key)
        return right, wrong

    def _rules(self, cls: Any, view: Partial, path: Path) -> None:
        for rule in cls.RULES:
            try:
                found = list(rule(view))
            except Unknown:
                continue
            for field, message in found:
                self._note((*path, *split_path(field)), message)

    def _union(self, kind: types.Type, union: types.UnionType, value: Any, path: Path) -> tuple[Any, Any]:
        """Take the first member that fits; else say what is wrong inside the only member of the same shape."""
        inside: list[tuple[list[Finding], tuple[Any, Any]]] = []
        outer, self.findings = self.findings, []
        for member in union.types:
            checked = self.check(member, value, path)
            if not self.findings:
                self.findings = outer
                return checked
            if any(finding.path != path for finding in self.findings):
                inside.append((self.findings, checked))
            self.findings = []
        self.findings = outer
        if len(inside) == 1:
            self.findings.extend(inside[0][0])
            return inside[0][1]
        self._note(path, _wrong(kind, value))
        return value, value

    def _note(self, path: Path, message: str, *, at_key: bool = False) -> None:
        if path not in self._reported or at_key:
            self.findings.append(Finding(path, message, at_key))


def check_value(kind: types.Type, value: Any) -> list[str]:
    """Return what is wrong with a value for a field of type `kind`."""
    checker = FieldChecker(_Nothing, unfit(value))
    checker.check(kind, value, ())
    return [finding.message for finding in checker.findings]


def kind_of_field(cls: type[msgspec.Struct], path: str) -> types.Type | str:
    """Return the type of the field at a dotted path below `cls`, or what is wrong with the path."""
    root = struct_info(cls)
    kind: types.Type = root
    steps = path.split(".")
    for index, step in enumerate(steps):
        inner = bare(kind)
        if isinstance(inner, types.DictType):
            return inner.value_type
        if not isinstance(inner, types.StructType):
            return f"{'.'.join(steps[:index])} holds no fields"
        fields = {field.name: field.type for field in inner.fields}
        if step not in fields:
            return unknown_field(root, tuple(steps[:index]), step)
        kind = fields[step]
    return "is a section; name one of its fields" if isinstance(bare(kind), types.StructType) else kind


def unknown_field(root: types.StructType, path: Path, key: str) -> str:
    """Say that `key` is no field of the section at `path`, and which one may be meant."""
    if key == "<<":
        return "merge keys are no part of YAML 1.2; repeat the fields, or put them into a file and `include` it"
    sections = {field.name: bare(field.type) for field in root.fields}
    homes = {
        name: [f.name for f in kind.fields] for name, kind in sections.items() if isinstance(kind, types.StructType)
    }
    here = list(sections) if not path else homes.get(str(path[0]), [])
    elsewhere = [f"{name}.{key}" for name, fields in homes.items() if key in fields]
    if not elsewhere and key in sections:
        elsewhere = [key]
    if elsewhere:  # before what only looks alike: a field in the wrong place has its right name
        return f"unknown field here; did you mean {' or '.join(repr(name) for name in elsewhere)}?"
    if hint := did_you_mean(key, here):
        return f"unknown field.{hint}"
    return f"unknown field. Known: {', '.join(here)}" if here else "unknown field"


@functools.cache
def struct_info(cls: type[msgspec.Struct]) -> types.StructType:
    """Return the types of a struct's fields."""
    return cast(types.StructType, types.type_info(cls))


def split_path(field: str | Path) -> Path:
    """Return ``("a", "b", 0)`` for ``"a.b.0"``, and a path that is split already as it is."""
    if isinstance(field, tuple):
        return field
    return tuple(int(step) if step.isdecimal() else step for step in field.split("."))


class _Nothing(msgspec.Struct):
    """Stands for a struct where a single value is checked."""


def _is_text(key: object) -> bool:
    return isinstance(key, str)


def _missing(kind: types.Type) -> str:
    if isinstance(bare(kind), types.StructType):
        return "this section is missing"
    return f"this field is missing; it must be {describe(kind)}"


def _fits(kind: types.Type, value: Any) -> bool:
    if isinstance(kind, types.AnyType):
        return True
    if isinstance(kind, types.NoneType):
        return value is None
    if isinstance(kind, types.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, types.LiteralType):
        return any(value == known and type(value) is type(known) for known in kind.values)
    if isinstance(value, bool):
        return False
    if isinstance(kind, types.IntType):
        return (isinstance(value, int) or _is_integral(kind, value)) and _within(kind, value)
    if isinstance(kind, types.FloatType):
        return isinstance(value, int | float) and _within(kind, value)
    return isinstance(kind, types.StrType) and isinstance(value, str) and _text_fits(kind, value)


def _is_integral(kind: types.Type, value: Any) -> bool:
    return isinstance(kind, types.IntType) and isinstance(value, float) and value.is_integer()


def _within(kind: types.IntType | types.FloatType, value: float) -> bool:
    """Say whether a number keeps the bounds; no bound is kept by NaN."""
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
    )


def _text_fits(kind: types.StrType, value: str) -> bool:
    try:
        msgspec.convert(value, _str_type(kind.min_length, kind.max_length, kind.pattern))
    except msgspec.ValidationError:
        return False
    return True


@functools.cache
def _str_type(min_length: int | None, max_length: int | None, pattern: str | None) -> Any:
    return Annotated[str, msgspec.Meta(min_length=min_length, max_length=max_length, pattern=pattern)]


def _wrong(kind: types.Type, value: Any) -> str:
    return f"must be {describe(kind)}, got {show(value)}{_hint(kind, value)}"


def _hint(kind: types.Type, value: Any) -> str:
    inner = bare(kind)
    members = [bare(member) for member in inner.types] if isinstance(inner, types.UnionType) else [inner]
    if not isinstance(value, str):
        if extreme := next(filter(None, (unspoken_bound(member, value) for member in members)), ""):
            return f"; it must be {extreme}, too"
        is_text = {type(member) for member in members} <= {types.StrType, types.NoneType}
        would_fit = isinstance(value, bool | int | float) and any(_fits(member, show(value)) for member in members)
        return "; put text that looks like this in quotes" if is_text and would_fit else ""
    for member in members:
        if isinstance(member, types.BoolType) and value.lower() in YAML_1_1_BOOLS:
            return "; write true or false"
        if isinstance(member, types.IntType | types.FloatType) and (hint := _number_hint(value)):
            return hint
        if isinstance(member, types.LiteralType):
            known = [name for name in member.values if isinstance(name, str)]
            if hint := did_you_mean(value, known):
                return f".{hint}"
    return ""


def _number_hint(value: str) -> str:
    digits = value.replace("_", "").replace(",", "")
    try:
        number = float(digits)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return "; it must be finite, too"
    return "; this is text, leave out the quotes" if digits == value else f"; write {digits}, without separators"
