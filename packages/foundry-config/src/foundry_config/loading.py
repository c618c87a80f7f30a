"""Load a config: every problem at once, each with its place.

load_config("tiny.yaml", overrides=["training.learning_rate=3e-4"])

tiny.yaml:4:3: data.batchsize: unknown field. Did you mean 'batch_size'?
tiny.yaml:12:18: training.optimizer: must be ..., got 'adamv'. Did you mean 'adamw'?
--set training.learning_rate=-1: training.learning_rate: must be a number greater than 0, got -1
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from foundry_config.checking import build
from foundry_config.errors import ConfigError
from foundry_config.layers import ConfigFiles, lay_over, read_environment, read_overrides, read_text
from foundry_config.origins import Node, Place, Source, locate, plain
from foundry_config.problems import Problem, refusal
from foundry_config.schema import ExperimentConfig
from foundry_config.tree_builder import dotted


def load_config(
    path: str | Path, *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> ExperimentConfig:
    """Return the experiment that the file at `path` describes.

    Args:
        path: YAML (.yaml, .yml), TOML (.toml) or JSON (.json); other names are read as YAML.
        overrides: `section.field=value` with the value in YAML; they win over everything else.
        environ: Where FOUNDRY__SECTION__FIELD is looked up; the process's environment when None. Wins over the file.

    Raises:
        ConfigError: Anything is wrong; its text has one line for each problem.
    """
    problems: list[Problem] = []
    files = ConfigFiles(problems)
    layers = [
        files.read(Path(path)),
        read_environment(os.environ if environ is None else environ, problems),
        read_overrides(overrides, problems),
    ]
    return _build(layers, problems, name=str(path), is_complete=files.is_complete)


def parse_config(
    text: str,
    *,
    format: Literal["yaml", "toml", "json"] = "yaml",  # noqa: A002 (the word a user would look for)
    name: str = "<config>",
    overrides: Sequence[str] = (),
) -> ExperimentConfig:
    """Return the experiment that `text` describes; `name` stands for the file in messages.

    Raises:
        ConfigError: Anything is wrong, or the text includes another file.
    """
    problems: list[Problem] = []
    root = read_text(text, format=format, source_name=name, problems=problems)
    includes = root is not None and "include" in root.value
    if root is not None and includes:
        included: Node = root.value.pop("include")
        problems.append(Problem(included.key, "include", "only a file can include another file"))
    return _build([root, read_overrides(overrides, problems)], problems, name=name, is_complete=not includes)


def config_from_dict(mapping: Mapping[str, Any], *, name: str = "config") -> ExperimentConfig:
    """Return the experiment that plain data describes, for example a run's `config.json`.

    Raises:
        ConfigError: Anything is wrong; `name` stands before each problem.
    """
    config, findings = build(ExperimentConfig, mapping)
    if config is None:
        place = Place(Source(name))
        raise refusal([Problem(place, dotted(f.path), f.message) for f in findings], name=name)
    return config


def replace_fields(config: ExperimentConfig, changes: Mapping[str, Any]) -> ExperimentConfig:
    """Return a copy of `config` with other values, keyed by dotted path (`{"training.learning_rate": 1e-3}`).

    Raises:
        ConfigError: A path is unknown or the changed config breaks a rule.
    """
    data: dict[str, Any] = msgspec.to_builtins(config)
    for path, value in changes.items():
        *sections, field = path.split(".")
        target = data
        for section in sections:
            inner = target.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{path}: {section!r} holds no fields")
            target = cast("dict[str, Any]", inner)
        target[field] = value
    return config_from_dict(data, name=config.experiment_name)


def _build(layers: Sequence[Node | None], problems: list[Problem], *, name: str, is_complete: bool) -> ExperimentConfig:
    if layers[0] is None:  # the file itself cannot be read: what its fields hold is unknown
        raise refusal(problems, name=name)
    root = layers[0]
    for layer in layers[1:]:
        root = root if layer is None else lay_over(root, layer)
    config, findings = build(ExperimentConfig, plain(root))
    for finding in findings:
        if finding.is_missing and not is_complete:
            continue
        place = locate(root, finding.path, at_key=finding.at_key)
        if finding.is_missing and not place.line:  # an override made the section; the file is what lacks the field
            place = root.place
        problems.append(Problem(place, dotted(finding.path), finding.message))
    if problems or config is None:
        raise refusal(problems, name=name)
    return config
