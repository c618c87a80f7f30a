"""One form for every config that means the same: for files, for digests, and for saying what differs.

config_digest(load_config("a.yaml")) == config_digest(load_config("a.toml"))
diff_configs(old, new)  ->  [training.learning_rate: 0.001 -> 0.0003]
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from foundry_config.describing import show
from foundry_config.fields import default_values, field_classes, flatten
from foundry_config.problems import visible
from foundry_config.schema import ExperimentConfig
from foundry_config.yaml_writer import write_yaml


class FieldChange(msgspec.Struct, frozen=True):
    """A field that two configs give different values."""

    path: str
    old: Any
    new: Any
    field_class: str
    """identity, numeric or free."""

    def __str__(self) -> str:
        return visible(f"{self.path}: {_shown(self.old)} -> {_shown(self.new)}")


def canonical_json(config: ExperimentConfig) -> bytes:
    """Return the resolved config as JSON with sorted keys; `config_from_dict` of it is an equal config."""
    return msgspec.json.encode(config, order="sorted")


def dump_config(config: ExperimentConfig) -> str:
    """Return the resolved config as YAML, every field spelled out; it loads back to an equal config."""
    return write_yaml(msgspec.to_builtins(config))


def config_digest(config: ExperimentConfig, *, classes: Sequence[str] = ("identity",)) -> str:
    """Return `sha256:...` over the fields of the given classes.

    A field at its default is left out: however the default is spelled the digest is the same, and a field that a later
    version adds does not change the digests of older configs.
    """
    tags, defaults = field_classes(), default_values()
    values = {
        path: value
        for path, value in flatten(config).items()
        if tags[path] in classes and not (path in defaults and _same(value, defaults[path]))
    }
    return "sha256:" + hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()


def diff_configs(old: ExperimentConfig, new: ExperimentConfig) -> list[FieldChange]:
    """Return every field whose value differs, in the order of the schema."""
    tags, before, after = field_classes(), flatten(old), flatten(new)
    return [
        FieldChange(path, before[path], after[path], tags[path])
        for path in before
        if not _same(before[path], after[path])
    ]


def _same(left: Any, right: Any) -> bool:
    """Compare as JSON does, where True is not 1."""
    return left is right or msgspec.json.encode(left, order="sorted") == msgspec.json.encode(right, order="sorted")


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else show(value)
