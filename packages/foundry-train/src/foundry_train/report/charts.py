"""What a chart shows, apart from how it is drawn: series, axes, ticks and thinning.

    Chart(title="Loss", x="step", y="nats per token", series=[Series("run a", xs, ys)])

`svg.py` draws it for the page and `png.py` for papers; both see the same points, which are also the chart's CSV.
"""

import csv
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

SMALLEST_SPAN = 1e-290  # below this a step of the axis has no logarithm any more
NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST_NAME = 120
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


def plain_names(parts: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a name of letters, digits, `-`, `_` and `.` for every chart, fit for files and never one for two.

    A name follows from its own parts alone, unless others would be called the same (on a file system that does not
    tell a from A): those get a part of their digest.

    >>> plain_names([("minimal_pairs", "field=syntax", "step"), ("a b", "x"), ("a", "b", "x")])
    ['minimal_pairs-field-syntax-step', 'a-b-x-77632f', 'a-b-x-ab8e8d']
    """
    names = ["-".join(filter(None, (NOT_PLAIN.sub("-", part).strip("-") for part in entry))) for entry in parts]
    common = Counter(name.lower() for name in names)
    return [
        name if common[name.lower()] == 1 and 0 < len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 7]}-{digest}"
        for name, digest in zip(names, map(_digest, parts), strict=True)
    ]


def _digest(parts: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:6]


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
    """Return powers of ten inside [low, high], or finer steps where there would be fewer than three.

    >>> log_ticks(1, 1000), log_ticks(30, 350), log_ticks(150, 350), log_ticks(350, 350)
    ([1.0, 10.0, 100.0, 1000.0], [50.0, 100.0, 200.0], [150.0, 200.0, 250.0, 300.0, 350.0], [350])
    """
    if low == high:
        return [low]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**power for power in range(first, last + 1)]
    inside = [tick for tick in decades if low <= tick <= high]
    if len(inside) >= 3:
        stride = math.ceil(len(inside) / 7)
        return inside[::stride]
    fine = [factor * decade for decade in decades for factor in (1, 2, 5)]
    even = linear_ticks(low, high)
    for ticks in (fine, even):
        inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(inside) >= 2:
            return inside
    return [low, high]


def zero_place(chart: Chart) -> float:
    """Return where zero stands on a logarithmic axis: half of the smallest positive value, as its left end."""
    least = min((x for series in chart.series for x in series.xs if x > 0), default=2.0)
    return least / 2 or least  # half of the least of all floats is zero, which has no logarithm


def positive_ticks(values: Iterable[float]) -> list[float]:
    """Return the ticks of a logarithmic axis for those of its values that have a logarithm."""
    positive = [value for value in values if value > 0]
    return log_ticks(min(positive), max(positive)) if positive else []


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
