"""What a chart shows, apart from how it is drawn: series, axes, ticks and thinning.

    Chart(title="Loss", x="step", y="nats per token", series=[Series("run a", xs, ys)])

`svg.py` draws it for the page and `png.py` for papers; both see the same points, which are also the chart's CSV.
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence

import msgspec

SMALLEST_SPAN = 1e-290  # below this a step of the axis has no logarithm any more
MOST_POINTS = 1500  # of one series; more cannot be told apart at any width of a page


class Series(msgspec.Struct, frozen=True):
    """One line, and the band around it if it stands for several runs."""

    name: str
    xs: list[float]
    ys: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    color: int | None = None


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One plot. On a logarithmic axis, zero stands at the left end and values below it are left out."""

    key: str
    title: str
    x: str
    y: str
    series: list[Series]
    log_x: bool = False
    log_y: bool = False
    markers: bool = False
    note: str = ""


def thin(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """Keep at most about `most` points: the lowest and highest of each stretch, so that no spike is lost."""
    if len(xs) <= most:
        return list(xs), list(ys)
    stretch = math.ceil(len(xs) / (most // 2))
    kept: set[int] = {0, len(xs) - 1}
    for start in range(0, len(xs), stretch):
        window = range(start, min(start + stretch, len(xs)))
        kept.add(min(window, key=lambda i: ys[i]))
        kept.add(max(window, key=lambda i: ys[i]))
    order = sorted(kept)
    return [xs[i] for i in order], [ys[i] for i in order]


def finite(xs: Sequence[float | None], ys: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """Drop every point that is missing, infinite or not a number."""
    pairs = [
        (float(x), float(y))
        for x, y in zip(xs, ys, strict=True)
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)
    ]
    return [x for x, _ in pairs], [y for _, y in pairs]


def linear_ticks(low: float, high: float, target: int = 6) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) that span [low, high].

    >>> linear_ticks(0.3, 9.7)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    span = (high - low) or abs(high)
    raw = span / max(1, target - 1) if span > SMALLEST_SPAN else 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten inside [low, high], or 1-2-5 steps where there would be fewer than three.

    >>> log_ticks(1, 1000)
    [1.0, 10.0, 100.0, 1000.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**power for power in range(first, last + 1)]
    inside = [tick for tick in decades if low <= tick <= high]
    if len(inside) >= 3:
        stride = math.ceil(len(inside) / 7)
        return inside[::stride]
    fine = [factor * decade for decade in decades for factor in (1, 2, 5)]
    return [tick for tick in fine if low * 0.999 <= tick <= high * 1.001] or [low, high]


def compact(value: float) -> str:
    """Write a number as short as an axis wants it.

    >>> [compact(v) for v in (0, 0.0003, 0.25, 12, 1500, 2_000_000)]
    ['0', '3e-4', '0.25', '12', '1.5k', '2M']
    """
    magnitude = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if magnitude >= limit:
            return f"{value / limit:.4g}{suffix}"
    if magnitude and magnitude < 1e-2:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def chart_csv(chart: Chart) -> str:
    """Return the points of a chart as CSV, one row per point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["series", chart.x, chart.y, "low", "high"])
    for series in chart.series:
        writer.writerows(_rows(series))
    return text.getvalue()


def _rows(series: Series) -> Iterator[list[str | float]]:
    for i, (x, y) in enumerate(zip(series.xs, series.ys, strict=True)):
        yield [series.name, x, y, series.low[i] if series.low else "", series.high[i] if series.high else ""]
