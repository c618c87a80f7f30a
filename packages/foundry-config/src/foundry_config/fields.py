"""The fields of the structs by dotted path: their class, and the values that an experiment gives them."""

import functools
from collections.abc import Iterator
from typing import Any

import msgspec

from foundry_config.base import Config
from foundry_config.schema import ExperimentConfig

CLASSES = ("identity", "numeric", "free")


@functools.cache
def field_classes() -> dict[str, str]:
    """Return identity, numeric or free for every field, by dotted path, in the order of the schema."""
    return dict(_classes(ExperimentConfig, ""))


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Return the value of every field by dotted path, as plain data, in the order of the schema."""
    values: dict[str, Any] = {}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if isinstance(value, Config):
            values.update(flatten(value, f"{prefix}{name}."))
        else:
            values[prefix + name] = msgspec.to_builtins(value)
    return values


def default_values(cls: type[Config] = ExperimentConfig, prefix: str = "") -> dict[str, Any]:
    """Return the default of every field that has one, by dotted path, as plain data."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(cls):
        if section := section_of(field.type):
            values.update(default_values(section, f"{prefix}{field.name}."))
        elif not field.required:
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # pyright: ignore[reportCallIssue]
            values[prefix + field.name] = msgspec.to_builtins(default)
    return values


def section_of(annotation: Any) -> type[Config] | None:
    """Return the struct that a field's annotation names, or None for a field that is no section."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Config) else None


def field_class(annotation: Any) -> str | None:
    """Return the one class among the metadata of a field's annotation, or None where there is not exactly one."""
    extras = [meta.extra.get("class") for meta in getattr(annotation, "__metadata__", ()) if meta.extra]
    found = [name for name in extras if name in CLASSES]
    return found[0] if len(found) == 1 else None


def _classes(cls: type[Config], prefix: str) -> Iterator[tuple[str, str]]:
    for field in msgspec.structs.fields(cls):
        if section := section_of(field.type):
            yield from _classes(section, f"{prefix}{field.name}.")
        else:
            name = field_class(field.type)
            assert name is not None, f"{prefix}{field.name} carries no class"
            yield prefix + field.name, name
