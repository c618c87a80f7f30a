"""Where an experiment reads and writes; relative paths count from the project root.

base_dir/
  runs/tiny/            .run            training.output_dir
    checkpoints/        .checkpoints
    metrics.jsonl       .metrics
    status.json         .status
    logs/               .logs           logging.dir
  data/prepared/        .prepared       data.training_corpus
"""

from pathlib import Path

from foundry_config.schema import ExperimentConfig

MARKS = (".git", "pyproject.toml")


def find_project_root(start: Path) -> Path:
    """Return the nearest directory at or above `start` that holds `.git` or `pyproject.toml`.

    Where there is none, the directory of `start` itself: a config file alone in a folder is a project.
    """
    here = start.resolve()
    folder = here if here.is_dir() else here.parent
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).exists() for mark in MARKS):
            return candidate
    return folder


class ExperimentPaths:
    """The paths of one experiment below a base directory; an absolute path in the config stays as it is."""

    def __init__(self, config: ExperimentConfig, base_dir: str | Path) -> None:
        self.base_dir = Path(base_dir)
        self.run = self.resolve(config.training.output_dir)
        self.checkpoints = self.run / "checkpoints"
        self.metrics = self.run / "metrics.jsonl"
        self.status = self.run / "status.json"
        self.logs = self.resolve(config.logging.dir) if config.logging.dir else self.run / "logs"
        self.prepared = self.resolve(config.data.training_corpus or "data/prepared")

    def resolve(self, path: str) -> Path:
        """Return `path` as it counts from the base directory; `~` is the home directory."""
        return self.base_dir / Path(path).expanduser()
