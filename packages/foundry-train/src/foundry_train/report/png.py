"""Draw the same charts with matplotlib, for papers: one PNG each, 200 dots per inch, on white."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundry_config.errors import ConfigError
from foundry_data import fs
from foundry_train.report.charts import Chart, compact, positive_ticks, zero_place
from foundry_train.report.svg import COLORS

DOTS_PER_INCH = 200
LABEL_WIDTH = 0.1  # share of the axis that a label needs


def write_pngs(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write `<key>.png` for every chart into `folder`.

    Raises:
        ConfigError: matplotlib, the extra `plots`, is not installed.
    """
    fs.make_directories(folder)
    written: list[Path] = []
    for chart in charts:
        path = folder / f"{chart.key}.png"
        fs.write_atomic(path, _png(chart))
        written.append(path)
    return written


def _png(chart: Chart) -> bytes:
    try:  # an optional extra: 30 MB that only papers need
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, NullLocator
    except ImportError as error:
        raise ConfigError("--png needs matplotlib; install it with: uv pip install 'foundry-train[plots]'") from error
    figure = Figure(figsize=(5.2, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, series in enumerate(chart.series):
        color = COLORS[(series.color if series.color is not None else index) % len(COLORS)]
        marker = "o" if chart.markers else None
        axes.plot(series.xs, series.ys, color=color, label=series.name, linewidth=1.2, marker=marker, markersize=3)
        if series.low is not None and series.high is not None:
            axes.fill_between(series.xs, series.low, series.high, color=color, alpha=0.16, linewidth=0)
    axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
    if chart.log_x:  # zero has a place at the left end, as on the page
        axes.set_xscale("symlog", linthresh=2 * zero_place(chart))
        xs = [x for series in chart.series for x in series.xs if x >= 0]
        ticks = _apart(axes, ([0.0] if 0 in xs else []) + positive_ticks(xs))
        axes.set_xticks(ticks, [compact(tick) for tick in ticks], minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
    else:  # steps, tokens or words
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.log_y:
        axes.set_yscale("log")
        ticks = positive_ticks(y for series in chart.series for y in series.ys)
        axes.set_yticks(ticks, [compact(tick) for tick in ticks], minor=False)
        axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    if len(chart.series) > 1:
        axes.legend(frameon=False, fontsize=7)
    image = io.BytesIO()
    figure.savefig(image, dpi=DOTS_PER_INCH)
    return image.getvalue()


def _apart(axes: Any, ticks: Sequence[float]) -> list[float]:
    """Leave out ticks whose labels would run into the one before."""
    kept: list[tuple[float, float]] = []
    for tick in ticks:
        place = float((axes.transScale + axes.transLimits).transform((tick, 1.0))[0])
        if not kept or place - kept[-1][1] >= LABEL_WIDTH:
            kept.append((tick, place))
    return [tick for tick, _ in kept]
