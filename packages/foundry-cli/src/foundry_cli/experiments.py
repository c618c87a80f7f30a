"""From what was typed to an experiment: the config, and the folder that its relative paths count from."""

import contextlib
import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from foundry_config import ConfigError, ExperimentConfig, ExperimentPaths, find_project_root, load_config

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
    if base_dir is None:
        return Experiment(config, find_project_root(path.resolve().parent), path)
    if not base_dir.is_dir():
        raise ConfigError(f"--base-dir {str(base_dir)!r} is not a folder; create it first, or leave the option out")
    return Experiment(config, base_dir.resolve(), path)


def check_tokenizer_source(experiment: Experiment) -> None:
    """Refuse an existing tokenizer that the model is not built for; see `DataProcessor.check_tokenizer_source`."""
    if experiment.config.tokenizer.source is not None:
        from foundry_data.processor import DataProcessor  # numpy and tokenizers: few configs need them here

        DataProcessor(experiment.config, experiment.base_dir).check_tokenizer_source()


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
