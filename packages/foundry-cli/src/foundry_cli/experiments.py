"""From what was typed to an experiment: the config, and the folder that its relative paths count from."""

import contextlib
import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from foundry_cli.console import note
from foundry_config import ConfigError, ExperimentConfig, ExperimentPaths, find_project_root, load_config
from foundry_config.lookup import find_modules_in, module_exists
from foundry_config.names import is_reference

if TYPE_CHECKING:
    from foundry_train.matrix import Cell

CONFIG_SUFFIXES = {".yaml", ".yml", ".toml", ".json"}


class Experiment(NamedTuple):
    """A loaded config and where it lives."""

    config: ExperimentConfig
    base_dir: Path
    source: Path

    @property
    def paths(self) -> ExperimentPaths:
        """The folders of the experiment."""
        return ExperimentPaths(self.config, self.base_dir)


def load_experiment(path: Path, *, overrides: Sequence[str] = (), base_dir: Path | None = None) -> Experiment:
    """Load a config file with its overrides, and find the folder that its relative paths count from.

    Raises:
        ConfigError: The file or an override cannot be used, or `base_dir` is no folder.
    """
    with contextlib.suppress(PermissionError):  # the loading says it better
        if not path.exists():
            raise ConfigError(missing_config(path))
    config = load_config(path, overrides=overrides)
    if base_dir is not None and not base_dir.is_dir():
        raise ConfigError(f"--base-dir {str(base_dir)!r} is not a folder; create it first, or leave the option out")
    folder = find_project_root(path.resolve().parent) if base_dir is None else base_dir.resolve()
    find_modules_in(folder)
    return Experiment(config, folder, path)


def matrix_runs(experiment: Experiment) -> "list[Cell]":
    """Return the runs of the experiment's matrix; none where it has no matrix.

    Raises:
        ConfigError: As `expand_matrix`.
    """
    if not experiment.config.matrix:
        return []
    from foundry_train.matrix import expand_matrix

    return expand_matrix(experiment.config)


def pick_run(experiment: Experiment, index: int) -> Experiment:
    """Return one run of the experiment's matrix as an experiment of its own.

    Raises:
        ConfigError: There is no matrix, or no run of that index in it.
    """
    from foundry_train.matrix import pick_cell

    require_matrix(experiment)
    return experiment._replace(config=pick_cell(experiment.config, index).config)


def require_matrix(experiment: Experiment) -> None:
    """Refuse an experiment without a matrix."""
    if not experiment.config.matrix:
        raise ConfigError(f"{experiment.source} has no `matrix:`; write the fields and their values there")


def note_matrix(experiment: Experiment, doing: str) -> None:
    """Say that a command which got no choice of run takes the config as it stands, and none of its matrix."""
    if runs := matrix_runs(experiment):
        note(f"{doing} the config as it stands, none of the {len(runs)} runs of its matrix; --matrix does those")


def check_experiment(experiment: Experiment) -> None:
    """Refuse what loading a config does not see, in any of its runs: what the architecture cannot honour, and ablation
    steps and tokenizers that cannot be used.

    Raises:
        ConfigError: As `check_architecture`; steps that do not exist or have wrong options; runs of the matrix that
            break a rule.
        FoundryError: As `DataProcessor.check_tokenizer_source`.
    """
    base_dir = experiment.base_dir
    runs = [(f"run {cell.index} of the matrix ({cell.name}): ", cell.config) for cell in matrix_runs(experiment)]
    configs = [("", experiment.config), *runs]
    problems: list[str] = []
    seen: set[bytes | str] = set()
    for name, config in runs or configs:  # the fields of a model as they stand may come together in none of the runs
        if (fields := msgspec.json.encode((config.model, config.tokenizer.vocab_size, config.data))) not in seen:
            seen.add(fields)
            problems += [f"{name}{line}" for line in _architecture_problems(config)]
    for name, config in configs:
        missing = [line for line in _reference_problems(config, base_dir) if line not in seen]
        seen.update(missing)
        problems += [f"{name}{line}" for line in missing]
        if (steps := msgspec.json.encode(config.dataset_manipulation)) not in seen:
            seen.add(steps)
            problems += [f"{name}{line}" for line in _step_problems(config, base_dir)]
    if problems:
        raise ConfigError("\n".join(problems))
    for _, config in configs:
        if (sources := msgspec.json.encode((config.tokenizer, config.model, config.data))) not in seen:
            seen.add(sources)
            _check_tokenizer_source(config, base_dir)


def _architecture_problems(config: ExperimentConfig) -> list[str]:
    from foundry_model import check_architecture  # without torch

    try:
        check_architecture(config)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _reference_problems(config: ExperimentConfig, base_dir: Path) -> list[str]:
    """Say where a model, an optimizer, a schedule or a sink is a function of a module that is nowhere."""
    names = [
        ("model.architecture", config.model.architecture),
        ("training.optimizer", config.training.optimizer),
        ("training.lr_schedule", config.training.lr_schedule),
        *(("logging.sinks", sink) for sink in config.logging.sinks),
    ]
    return [
        f"{field}: {name!r} names a module that is neither in {base_dir} nor installed"
        for field, name in names
        if is_reference(name) and not module_exists(name)
    ]


def _step_problems(config: ExperimentConfig, base_dir: Path) -> list[str]:
    if not config.dataset_manipulation:
        return []
    from foundry_data import validate_steps  # numpy and tokenizers: few configs need them here

    try:
        validate_steps(config.dataset_manipulation, base_dir=base_dir)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _check_tokenizer_source(config: ExperimentConfig, base_dir: Path) -> None:
    if config.tokenizer.source is not None:
        from foundry_data.processor import DataProcessor

        DataProcessor(config, base_dir).check_tokenizer_source()


def missing_config(path: Path) -> str:
    """Say that there is no config at `path`, and what was probably meant: one in a folder above, or one like it.

    foundry.yaml does not exist; there is one in a folder above: ../foundry.yaml
    my.yml does not exist. Did you mean my.yaml?
    foundry.yaml does not exist; name your config, or write one to start from with `foundry init foundry.yaml`
    """
    if not path.is_absolute():
        for levels in range(1, len(Path.cwd().parts)):
            above = Path(*[".."] * levels) / path
            if above.is_file():
                return f"{path} does not exist; there is one in a folder above: {above}"
    beside = _configs_in(path.parent)
    close = difflib.get_close_matches(path.stem.lower(), [other.stem.lower() for other in beside], n=1)
    if close:
        meant = next(other for other in beside if other.stem.lower() == close[0])
        return f"{path} does not exist. Did you mean {meant}?"
    write = f"write one to start from with `foundry init {shlex.quote(str(path))}`"
    return f"{path} does not exist; name your config, or {write}"


def _configs_in(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in CONFIG_SUFFIXES)
    except OSError:
        return []
