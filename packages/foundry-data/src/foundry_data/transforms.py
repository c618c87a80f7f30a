"""The steps of `dataset_manipulation`: what can be written there, checked before any document is read.

    dataset_manipulation:
      - lowercase                                          a name of TRANSFORMS
      - {name: regex_replace, pattern: "[0-9]+"}           with options
      - my_steps:swap                                      a function, see `transform_function.py`
      - {command: [tr, a-z, A-Z]}                          a program, see `transform_command.py`

A seed of its own is derived for every step from the experiment's seed, the step's name, and how often that name came
before: a step put in front of the others does not change what they draw.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from foundry_config.errors import ConfigError
from foundry_config.lookup import did_you_mean
from foundry_data.fingerprint import fingerprint
from foundry_data.keyed_random import keyed_hash
from foundry_data.transform_command import Command, find_program
from foundry_data.transform_duplicates import DUPLICATE_TRANSFORMS
from foundry_data.transform_filters import FILTER_TRANSFORMS
from foundry_data.transform_function import FunctionOnDocument, FunctionOnStream, find_function
from foundry_data.transform_kinds import StepContext, Transform
from foundry_data.transform_texts import TEXT_TRANSFORMS

Kind = TypeVar("Kind", bound=Transform)
StepSpec = str | Mapping[str, Any]

_NO_STEP = "a step is a name, or a mapping with a `name` or a `command`, not {!r}"

PER = {"corpus": FunctionOnStream, "document": FunctionOnDocument}


@dataclass(frozen=True)
class Step:
    """One step, ready to run."""

    index: int
    name: str
    transform: Transform
    context: StepContext

    @property
    def label(self) -> str:
        """How messages name it, as in `dataset_manipulation[0] 'lowercase'`."""
        return f"dataset_manipulation[{self.index}] {self.name!r}"

    @property
    def settings(self) -> dict[str, Any]:
        """The options, defaults filled in, as plain JSON values."""
        return cast(dict[str, Any], msgspec.to_builtins(self.transform))


def validate_steps(steps: Sequence[StepSpec], *, base_dir: Path | None = None) -> None:
    """Check names, options, functions and programs; nothing is read or run, except that named modules are imported.

    Raises:
        ConfigError: Lists every step that cannot be used, and why.
    """
    parse_steps(steps, seed=0, base_dir=base_dir)


def parse_steps(steps: Sequence[StepSpec], *, seed: int, base_dir: Path | None = None) -> list[Step]:
    """Return the steps with their own seeds.

    Args:
        steps: As in the config.
        seed: `random_seed` of the experiment.
        base_dir: Folder that programs, their files and modules are found in; the current one if not given.

    Raises:
        ConfigError: Lists every step that cannot be used, and why.
    """
    base_dir = Path.cwd() if base_dir is None else base_dir
    seen: Counter[str] = Counter()
    parsed: list[Step] = []
    problems: list[str] = []
    for index, spec in enumerate(steps):
        try:
            name, transform = _parse(spec, base_dir)
        except ConfigError as error:
            problems.append(f"dataset_manipulation[{index}]: {error}")
            continue
        context = StepContext(keyed_hash(seed, "step", f"{name} {seen[name]}"), base_dir)
        seen[name] += 1
        parsed.append(Step(index, name, transform, context))
    if problems:
        raise ConfigError("\n".join(problems))
    return parsed


def manipulation_fingerprint(steps: Sequence[StepSpec], *, seed: int, base_dir: Path | None = None) -> str:
    """Fingerprint everything that decides what the steps do to a corpus: options, seeds, and the code itself.

    Raises:
        ConfigError: As `parse_steps`.
    """
    parsed = parse_steps(steps, seed=seed, base_dir=base_dir)
    return fingerprint(
        [[step.name, step.settings, step.context.seed, step.transform.code(step.context)] for step in parsed]
    )


def steps_draw(steps: Sequence[StepSpec], *, base_dir: Path | None = None) -> bool:
    """Tell whether what the steps make may depend on the seed.

    Raises:
        ConfigError: As `parse_steps`.
    """
    return any(step.transform.draws(step.context) for step in parse_steps(steps, seed=0, base_dir=base_dir))


def _parse(spec: StepSpec, base_dir: Path) -> tuple[str, Transform]:
    """Return the name and the checked step of one entry."""
    if not isinstance(spec, str | Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] (it comes from a person)
        raise ConfigError(_NO_STEP.format(spec))
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "command" in options and "name" not in options:
        command = _convert(options, Command, "command")
        return Path(find_program(command.command[0], base_dir)).name, command
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(_NO_STEP.format(spec))
    if ":" in name:
        return name, _function(name, options, base_dir)
    if name not in TRANSFORMS:
        raise ConfigError(f"unknown step {name!r}.{did_you_mean(name, TRANSFORMS)} Known: {', '.join(TRANSFORMS)}")
    return name, _convert(options, TRANSFORMS[name], name)


def _function(reference: str, options: dict[str, Any], base_dir: Path) -> Transform:
    per = options.pop("per", "corpus")
    if per not in PER:
        raise ConfigError(f"{reference!r}: per must be one of {', '.join(PER)}, not {per!r}")
    find_function(reference, options, base_dir)
    return PER[per](reference=reference, options=options)


def _convert(options: dict[str, Any], kind: type[Kind], name: str) -> Kind:
    fields = msgspec.structs.fields(kind)
    known = [field.name for field in fields]
    for option in options:
        if option not in known:
            hint = did_you_mean(str(option), known)
            raise ConfigError(f"{name!r} has no option {option!r}.{hint} Known: {', '.join(known) or 'none'}")
    for field in fields:
        if field.required and field.name not in options:
            raise ConfigError(f"{name!r} needs the option {field.name!r}")
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name!r}: {_with_value(str(error), options)}") from None


def _with_value(problem: str, options: dict[str, Any]) -> str:
    """Say of a problem that msgspec found which option it is about, and the value.

    >>> _with_value("Expected `float` <= 1.0 - at `$.fraction`", {"fraction": 2})
    'fraction is 2: expected `float` <= 1.0'
    """
    match = re.fullmatch(r"E(xpected .*) - at `\$\.(\w+)\S*`", problem)
    return f"{match[2]} is {options[match[2]]!r}: e{match[1]}" if match else problem


TRANSFORMS: dict[str, type[Transform]] = TEXT_TRANSFORMS | FILTER_TRANSFORMS | DUPLICATE_TRANSFORMS
