"""Hold two runs against each other: what their configs differ in, where their training first does, and both curves.

config     training.learning_rate: 0.001 -> 0.0003 (identity)
metrics    equal until step 1; at step 2 loss is 8.31733 in a and 8.31790 in b
loss       step  a       b       b - a
            100  5.1034  5.2208  +0.1174
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from foundry_config import FieldChange, config_from_dict, diff_configs
from foundry_train.report.run_data import Record, RunData, number, read_run

COMPARED = ("loss", "grad_norm", "lr", "tokens", "words")


class FirstDifference(msgspec.Struct, frozen=True):
    """The first value that differs between two runs."""

    step: int
    key: str
    a: float | None
    b: float | None


class CurvePoint(msgspec.Struct, frozen=True):
    """Losses of both runs at one step. [nats per token]"""

    step: int
    a: float | None
    b: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What `compare_runs` found."""

    a: str
    b: str
    changes: list[FieldChange]
    shared_steps: int
    first_difference: FirstDifference | None
    curve: list[CurvePoint]


def compare_runs(a: Path, b: Path, *, rows: int = 12) -> Comparison:
    """Compare the runs in the folders `a` and `b`.

    Args:
        a: A run directory.
        b: Another one.
        rows: About how many points of the loss curves to return, evenly over the shared steps.

    Raises:
        ConfigError: A folder holds no run.
    """
    one, two = read_run(a), read_run(b)
    steps_a, steps_b = _by_step(one), _by_step(two)
    shared = sorted(steps_a.keys() & steps_b.keys())
    return Comparison(
        a=str(a),
        b=str(b),
        changes=diff_configs(config_from_dict(one.config), config_from_dict(two.config)),
        shared_steps=len(shared),
        first_difference=next(_differences(shared, steps_a, steps_b), None),
        curve=[
            CurvePoint(step, number(steps_a[step], "loss"), number(steps_b[step], "loss"))
            for step in _spread(shared, rows)
        ],
    )


def _by_step(run: RunData) -> dict[int, Record]:
    return {int(record["step"]): record for record in run.steps}


def _differences(shared: list[int], a: dict[int, Record], b: dict[int, Record]) -> Iterator[FirstDifference]:
    for step in shared:
        for key in COMPARED:
            if a[step].get(key) != b[step].get(key):
                yield FirstDifference(step, key, number(a[step], key), number(b[step], key))


def _spread(steps: list[int], rows: int) -> list[int]:
    """Return the first, the last and about `rows` steps in between."""
    if len(steps) <= rows:
        return steps
    return sorted({steps[round(i * (len(steps) - 1) / (rows - 1))] for i in range(rows)})
