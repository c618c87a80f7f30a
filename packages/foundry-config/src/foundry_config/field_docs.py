"""What is known of every field, for people and editors: read from the structs and from the text under each field.

    batch_size: Identity[Positive]
    "Sequences per accumulation step, over all ranks together. [sequences]"

    -> FieldDoc("data.batch_size", meaning="Sequences per ...", unit="sequences", type="integer", ...)

The texts are attribute docstrings, which Python throws away when it runs: they are read from the source with `ast`,
here and only when a reference is made.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from foundry_config import schema
from foundry_config.base import Config
from foundry_config.describing import range_text, type_name
from foundry_config.field_checker import struct_info
from foundry_config.fields import field_class, section_of
from foundry_config.yaml_writer import write_value

UNIT = re.compile(r"\s*\[([^\[\]`]+)\]$")


class FieldDoc(msgspec.Struct, frozen=True):
    """One field as a reader sees it."""

    path: str
    type: str
    default: str | None
    """As YAML; None for a required field."""
    range: str
    unit: str
    meaning: str
    field_class: str


class SectionDoc(msgspec.Struct, frozen=True):
    """One struct: its name in a config (empty for the top level), what it is about, and its fields."""

    name: str
    struct: str
    meaning: str
    fields: tuple[FieldDoc, ...]


def section_docs() -> list[SectionDoc]:
    """Return the top level and every section, in the order of the schema."""
    texts = attribute_texts()
    sections: list[tuple[str, type[Config]]] = [("", schema.ExperimentConfig)]
    for field in msgspec.structs.fields(schema.ExperimentConfig):
        if section := section_of(field.type):
            sections.append((field.name, section))
    return [_section(name, cls, texts) for name, cls in sections]


def attribute_texts() -> dict[tuple[str, str], tuple[str, str]]:
    """Return (meaning, unit) for every (struct, field) of the schema."""
    tree = ast.parse(inspect.getsource(schema))
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for struct in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for name, text in _attributes(struct):
            joined = " ".join(text.split())
            unit = UNIT.search(joined)
            found[struct.name, name] = (UNIT.sub("", joined), unit[1] if unit else "")
    return found


def _attributes(struct: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for node, following in zip(struct.body, struct.body[1:]):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            yield node.target.id, str(following.value.value)


def _section(name: str, cls: type[Config], texts: dict[tuple[str, str], tuple[str, str]]) -> SectionDoc:
    kinds = {field.name: field.type for field in struct_info(cls).fields}
    docs: list[FieldDoc] = []
    for field in msgspec.structs.fields(cls):
        if section_of(field.type):
            continue
        meaning, unit = texts[cls.__name__, field.name]
        docs.append(
            FieldDoc(
                path=f"{name}.{field.name}" if name else field.name,
                type=type_name(kinds[field.name]),
                default=None if field.required else write_value(msgspec.to_builtins(_default(field))),
                range=range_text(kinds[field.name]),
                unit=unit,
                meaning=meaning,
                field_class=field_class(field.type) or "",
            )
        )
    return SectionDoc(name, cls.__name__, inspect.getdoc(cls) or "", tuple(docs))


def _default(field: Any) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
