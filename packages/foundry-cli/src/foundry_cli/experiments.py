"""From what was typed to an experiment: the config, and the folder that its relative paths count from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from foundry_config import ConfigError, ExperimentConfig, ExperimentPaths, find_project_root, load_config


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
    config = load_config(path, overrides=overrides)
    if base_dir is None:
        return Experiment(config, find_project_root(path.resolve().parent), path)
    if not base_dir.is_dir():
        raise ConfigError(f"--base-dir {str(base_dir)!r} is not a folder; create it first, or leave the option out")
    return Experiment(config, base_dir.resolve(), path)
