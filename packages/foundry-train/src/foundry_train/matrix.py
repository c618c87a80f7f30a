"""One config, many runs: every combination of the values in `matrix:`.

    random_seed: [1, 2]                            0  none_seed-1           runs/study/none_seed-1
    dataset_manipulation:                          1  none_seed-2           runs/study/none_seed-2
      - none                                       2  no-articles_seed-1    runs/study/no-articles_seed-1
      - no-articles: [{name: drop_words, ...}]     3  no-articles_seed-2    runs/study/no-articles_seed-2

A value of `dataset_manipulation` is a list of steps, the name of a single one, `none`, or a list of steps with a name.

A cell is an ordinary experiment: it resumes, and says that it is done, by itself, so running the matrix again runs
what is missing. Cells share the folder of prepared data, where every stage is named by the fingerprint of its inputs:
what two cells have in common is made once. Names and order depend on the values alone (fields by name, the seed last
and fastest), so that an index means the same on every machine of a cluster.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from foundry_config import ExperimentConfig, ExperimentPaths, replace_fields
from foundry_config.errors import ConfigError
from foundry_config.manipulations import named_steps

SEED = "random_seed"
MANIPULATION = "dataset_manipulation"
LONGEST_NAME = 100

CellState = Literal["missing", "unfinished", "done"]


class Cell(NamedTuple):
    """One run of a matrix."""

    index: int
    name: str
    """Safe in file names; the last part of its run directory."""
    config: ExperimentConfig
    values: dict[str, Any]
    """What it sets, by dotted field."""


class Value(NamedTuple):
    """One value of a field and what to call it."""

    name: str
    value: Any


def expand_matrix(config: ExperimentConfig) -> list[Cell]:
    """Return every combination as a config of its own; a config without a matrix is its only cell.

    Runs of one condition share their `experiment_name`, which is the base's with the condition added; only the seed
    tells them apart.

    Raises:
        ConfigError: A combination breaks a rule, two values have one name, or cells would overwrite each other's files.
    """
    if not config.matrix:
        return [Cell(0, config.experiment_name, config, {})]
    _refuse_shared_tokenizer(config)
    fields = sorted(config.matrix, key=lambda path: (path == SEED, path))
    choices = [_values(path, config.matrix[path]) for path in fields]
    cells: list[Cell] = []
    for index, combination in enumerate(itertools.product(*choices)):
        chosen = dict(zip(fields, combination, strict=True))
        cells.append(_cell(config, index, chosen))
    _refuse_equal_names(cells)
    return cells


def pick_cell(config: ExperimentConfig, index: int) -> Cell:
    """Return the cell of an index, for one task of a cluster's job array.

    Raises:
        ConfigError: There is no such cell.
    """
    cells = expand_matrix(config)
    if not 0 <= index < len(cells):
        raise ConfigError(f"--index {index}: the matrix has {len(cells)} runs, 0 to {len(cells) - 1}")
    return cells[index]


def pending_cells(config: ExperimentConfig, base_dir: Path) -> list[Cell]:
    """Return the cells that are not done, in order."""
    return [cell for cell in expand_matrix(config) if cell_state(cell, base_dir) != "done"]


def cell_state(cell: Cell, base_dir: Path) -> CellState:
    """Say how far the run of a cell is, by its status.json."""
    paths = ExperimentPaths(cell.config, base_dir)
    if not paths.run.is_dir():
        return "missing"
    try:
        status = msgspec.json.decode(paths.status.read_bytes(), type=dict)
    except (OSError, msgspec.DecodeError):
        return "unfinished"
    return "done" if status.get("phase") == "done" else "unfinished"


def read_value(path: str, raw: Any) -> Value:
    """Return one entry of the matrix as the value of its field, and its name in file names.

    >>> read_value("training.learning_rate", 3e-4)
    Value(name='learning_rate-0.0003', value=0.0003)
    >>> read_value("dataset_manipulation", {"no-articles": ["lowercase"]})
    Value(name='no-articles', value=['lowercase'])
    """
    if path == MANIPULATION:
        return _read_manipulation(raw)
    field = "seed" if path == SEED else path.rpartition(".")[2]
    text = raw if isinstance(raw, str) else json.dumps(raw, separators=(",", ":"), ensure_ascii=False)
    return Value(_safe(f"{field}-{text}"), raw)


def _read_manipulation(raw: Any) -> Value:
    name, steps = named_steps(raw)
    if name is None:
        name = "+".join(map(_step_name, steps)) if steps else "none"
    return Value(_safe(name), steps)


def _values(path: str, values: Sequence[Any]) -> list[Value]:
    """Values with their names; two that would be called the same get a part of their digest."""
    named = [read_value(path, value) for value in values]
    for first, second in itertools.combinations(named, 2):
        if first.value == second.value and type(first.value) is type(second.value):
            raise ConfigError(f"matrix.{path}: {first.value!r} stands there twice")
    names = [entry.name for entry in named]
    return [
        entry._replace(name=f"{entry.name}-{_digest(entry.value)}") if names.count(entry.name) > 1 else entry
        for entry in named
    ]


def _cell(config: ExperimentConfig, index: int, chosen: Mapping[str, Value]) -> Cell:
    name = _short("_".join(value.name for value in chosen.values()))
    condition = _short("_".join(value.name for path, value in chosen.items() if path != SEED))
    values = {path: value.value for path, value in chosen.items()}
    changes = {
        **({"data.replacement_corpus": None} if values.get(MANIPULATION) == [] else {}),  # nothing to top up
        **values,
        "matrix": {},
        "training.output_dir": str(Path(config.training.output_dir) / name),
        "experiment_name": _short(f"{config.experiment_name}-{condition}" if condition else config.experiment_name),
    }
    try:
        return Cell(index, name, replace_fields(config, changes), values)
    except ConfigError as error:
        raise ConfigError(f"run {index} of the matrix ({name}): {error}") from error


def _step_name(step: Any) -> str:
    if isinstance(step, str):
        return step.rpartition(":")[2]
    if "command" in step:
        return Path(step["command"][0]).stem
    return str(step["name"]).rpartition(":")[2]


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.+") or "value"


def _short(name: str) -> str:
    """A name that every file system takes; a cut one ends in a digest of the whole, so that it stays its own."""
    name = name.replace("+", ".")
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{_digest(name)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _refuse_equal_names(cells: Iterable[Cell]) -> None:
    seen: dict[str, int] = {}
    for cell in cells:
        folded = cell.name.lower()  # some file systems do not tell a from A
        if folded in seen:
            raise ConfigError(f"runs {seen[folded]} and {cell.index} of the matrix would both be called {cell.name!r}")
        seen[folded] = cell.index


def _refuse_shared_tokenizer(config: ExperimentConfig) -> None:
    """A folder given by hand holds one tokenizer; cells with different text or settings train different ones."""
    trained = config.tokenizer.output_dir is not None and config.tokenizer.source is None
    varied = [path for path in config.matrix if path == MANIPULATION or path.startswith(("tokenizer.", "data."))]
    if trained and varied and "tokenizer.output_dir" not in config.matrix:
        raise ConfigError(
            f"tokenizer.output_dir: the runs of the matrix differ in {', '.join(varied)}, so they cannot share one "
            "folder for their tokenizers; leave it out, then each tokenizer is kept under its fingerprint"
        )
