"""Turn the records of runs into charts: training curves per run, evaluation per condition with a between-seed band.

Runs of one condition differ in nothing of meaning but `random_seed`. Where there are two or more of them,
the line is their mean at each point that all of them have, and the band reaches from the lowest to the highest.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from foundry_config import config_from_dict
from foundry_train.report.charts import Chart, Series, finite, plain_names, thin
from foundry_train.report.run_data import RunData, number
from foundry_train.results_table import condition_names, evaluated_values

Point = tuple[float, float]
AXES = {"step": "step", "tokens": "tokens", "words": "words"}
TRAINING = (
    ("loss", "Training loss", "nats per token"),
    ("lr", "Learning rate", "learning rate"),
    ("grad_norm", "Gradient norm", "global norm before clipping"),
    ("tokens_per_second", "Throughput", "tokens per second"),
    ("memory_bytes", "Memory", "GiB"),
)
NOT_MEASURES = frozenset({"kind", "attempt", "step", "epoch", "tokens", "words", "suite", "time", "seconds", "label"})


class Measurement(msgspec.Struct, frozen=True):
    """One value of one evaluation: the row of the long table, as far as a chart needs it."""

    run: int
    suite: str
    item: str
    step: float
    tokens: float
    words: float
    value: float


def training_charts(runs: Sequence[RunData]) -> list[Chart]:
    """Return the curves of training, one line per run."""
    charts: list[Chart] = []
    for key, title, unit in TRAINING:
        series = [_step_series(run, key) for run in runs]
        if any(s.xs for s in series):
            log_y = key == "grad_norm"
            charts.append(Chart(key=key, title=title, x="step", y=unit, series=series, log_y=log_y))
    return charts


def _step_series(run: RunData, key: str) -> Series:
    xs, ys = finite([number(r, "step") for r in run.steps], [number(r, key) for r in run.steps])
    if key == "memory_bytes":
        ys = [y / 2**30 for y in ys]
    return Series(run.name, *thin(xs, ys))


def measurements(runs: Sequence[RunData]) -> list[Measurement]:
    """Return every number that an evaluation inside a run wrote, at the tokens and words that training had seen."""
    found: list[Measurement] = []
    for index, run in enumerate(runs):
        seen = {int(record["step"]): record for record in run.steps}
        for record in run.evaluations:
            step = int(record.get("step") or 0)
            place = [number(seen.get(step, {}), axis) or 0.0 for axis in ("tokens", "words")]
            found += _measures(index, record, float(step), *place)
    return found


def _measures(index: int, record: dict[str, Any], step: float, tokens: float, words: float) -> list[Measurement]:
    suite = str(record.get("suite", "test"))
    return [
        Measurement(index, suite, item, step, tokens, words, value)
        for item in record
        if item not in NOT_MEASURES and (value := number(record, item)) is not None
    ]


def evaluation_charts(runs: Sequence[RunData], table: Sequence[Measurement]) -> list[Chart]:
    """Return one chart per evaluated item and axis (steps, tokens, words), on a logarithmic axis."""
    groups: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for row in table:
        groups[row.suite, row.item].append(row)
    conditions = _conditions(runs)
    charts: list[Chart] = []
    places = [(suite, item, axis) for suite, item in groups for axis in AXES]
    names = dict(zip(places, plain_names(places), strict=True))
    for (suite, item), rows in groups.items():
        for axis in AXES:
            series = _condition_series(conditions, rows, axis)
            if any(s.xs for s in series):
                key = names[suite, item, axis]
                title = f"{item.replace('_', ' ')} ({suite})"
                charts.append(Chart(key=key, title=title, x=axis, y=item, series=series, log_x=True, markers=True))
    return charts


def kept_measurements(runs: Sequence[RunData]) -> list[Measurement]:
    """Return every number that `foundry evaluate` has kept in the runs."""
    found: list[Measurement] = []
    for index, run in enumerate(runs):
        for result, value in evaluated_values(run.path):
            facts = result.checkpoint
            step, tokens, words = float(facts.step or 0), float(facts.tokens or 0), float(facts.words or 0)
            found.append(Measurement(index, value.suite, value.item, step, tokens, words, value.value))
    return found


def _conditions(runs: Sequence[RunData]) -> dict[str, list[int]]:
    """Return name -> indices of its runs."""
    names = condition_names({str(index): config_from_dict(run.config) for index, run in enumerate(runs)})
    found: dict[str, list[int]] = defaultdict(list)
    for index in range(len(runs)):
        found[names[str(index)]].append(index)
    return {runs[indices[0]].name if len(indices) == 1 else name: indices for name, indices in found.items()}


def _condition_series(conditions: dict[str, list[int]], rows: Sequence[Measurement], axis: str) -> list[Series]:
    series: list[Series] = []
    for color, (name, indices) in enumerate(conditions.items()):
        curves = [_curve(rows, index, axis) for index in indices]
        curves = [curve for curve in curves if curve]
        if len(curves) == 1:
            xs, ys = thin(list(curves[0]), list(curves[0].values()))
            series.append(Series(name, xs, ys, color=color))
        elif curves:
            series.append(_mean_and_band(f"{name} (mean of {len(curves)} seeds)", curves, color))
    return series


def _curve(rows: Sequence[Measurement], index: int, axis: str) -> dict[float, float]:
    points = {getattr(row, axis): row.value for row in rows if row.run == index and math.isfinite(row.value)}
    return dict(sorted(points.items()))


def _mean_and_band(name: str, curves: Sequence[dict[float, float]], color: int) -> Series:
    """Join curves by their rank: seeds see other words at the same step, so positions are averaged too."""
    length = min(len(curve) for curve in curves)
    stacked = [list(curve.items())[:length] for curve in curves]
    xs = [statistics.fmean(curve[i][0] for curve in stacked) for i in range(length)]
    columns = [[curve[i][1] for curve in stacked] for i in range(length)]
    means = [statistics.fmean(column) for column in columns]
    return Series(name, xs, means, [min(c) for c in columns], [max(c) for c in columns], color)
