"""Draw a `Chart` as one SVG that reads well in light and dark, inside a page or saved as a file.

Colors are variables with fallbacks: a page sets `--ink`, `--grid` and `--s0` to `--s7`; a saved file is light.
"""

import html
import math
from collections.abc import Callable, Sequence

from foundry_train.report.charts import Chart, Series, compact, linear_ticks, positive_ticks, zero_place

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 34, 46
CHARACTER = 7.5  # width of a digit at 12 pixels, or a little less
# Eight hues that stay apart for the common forms of colour blindness, on white and on near-black.
COLORS = ("#2f6fde", "#d9480f", "#2b8a3e", "#9c36b5", "#b08900", "#0c8599", "#c2255c", "#6b7280")

Scale = Callable[[float], float]


def chart_svg(chart: Chart) -> str:
    """Return the chart as an `<svg>` element with a title and axis labels. Empty charts say so."""
    zero = zero_place(chart)
    points = [(s, *_drawable(chart, s, zero)) for s in chart.series]
    xs = [x for _, px, _ in points for x in px]
    if not xs:
        return _frame(chart, [f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle" class="t">no data</text>'])
    ys = [y for _, _, py in points for y in py]
    ys += [v for s in chart.series for band in (s.low, s.high) if band for v in band if not chart.log_y or v > 0]
    x_ticks = _x_ticks(chart, xs, zero)
    y_ticks = _ticks(ys, log=chart.log_y)
    x_ends = (min(xs), max(xs)) if chart.log_x else (min(min(xs), x_ticks[0]), max(xs))
    y_ends = (min(ys), max(ys)) if chart.log_y else (min(min(ys), y_ticks[0]), max(max(ys), y_ticks[-1]))
    sx = _scale(*x_ends, LEFT, WIDTH - RIGHT, log=chart.log_x)
    sy = _scale(*y_ends, HEIGHT - BOTTOM, TOP, log=chart.log_y)
    body = _grid(x_ticks, y_ticks, sx, sy)
    if chart.log_x and zero in xs:
        body.append(f'<text x="{sx(zero)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" class="t">0</text>')
    for index, (series, px, py) in enumerate(points):
        color = _color(series, index)
        body += _band(chart, series, zero, sx, sy, color)
        body += _line(chart, series, px, py, sx, sy, color)
    return _frame(chart, body)


def _drawable(chart: Chart, series: Series, zero: float) -> tuple[list[float], list[float]]:
    kept = [
        (zero if chart.log_x and x == 0 else x, y)
        for x, y in zip(series.xs, series.ys, strict=True)
        if (x >= 0 or not chart.log_x) and (y > 0 or not chart.log_y)
    ]
    return [x for x, _ in kept], [y for _, y in kept]


def _x_ticks(chart: Chart, xs: Sequence[float], zero: float) -> list[float]:
    """Ticks of the horizontal axis, which counts steps, tokens or words: none between two whole numbers."""
    if chart.log_x:
        return positive_ticks(x for x in xs if x != zero)
    ticks = linear_ticks(min(xs), max(xs))
    whole = [tick for tick in ticks if tick.is_integer()]
    return whole if len(whole) >= 2 else ticks


def _ticks(values: Sequence[float], *, log: bool) -> list[float]:
    return positive_ticks(values) if log else linear_ticks(min(values), max(values))


def _scale(low: float, high: float, start: float, end: float, *, log: bool) -> Scale:
    if log:
        low, high = math.log10(low), math.log10(high)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        position = (math.log10(value) if log else value) - low
        return round(start + (end - start) * position / span, 2)

    return place


def _color(series: Series, index: int) -> str:
    slot = (series.color if series.color is not None else index) % len(COLORS)
    return f"var(--s{slot}, {COLORS[slot]})"


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float], sx: Scale, sy: Scale) -> list[str]:
    parts: list[str] = []
    for tick in y_ticks:
        y = sy(tick)
        if TOP - 1 <= y <= HEIGHT - BOTTOM + 1:
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="g"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end" class="t">{compact(tick)}</text>')
    for tick in x_ticks:
        x = sx(tick)
        if LEFT - 1 <= x <= WIDTH - RIGHT + 1:
            parts.append(f'<line x1="{x}" x2="{x}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}" class="a"/>')
            label = compact(tick)
            inside = min(x, WIDTH - CHARACTER / 2 * len(label) - 1)  # the last one may be wider than the margin
            parts.append(f'<text x="{inside}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" class="t">{label}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" class="a"/>')
    return parts


def _band(chart: Chart, series: Series, zero: float, sx: Scale, sy: Scale, color: str) -> list[str]:
    if series.low is None or series.high is None:
        return []
    edge = [
        (zero if chart.log_x and x == 0 else x, low, high)
        for x, low, high in zip(series.xs, series.low, series.high, strict=True)
        if (x >= 0 or not chart.log_x) and (low > 0 or not chart.log_y)
    ]
    if not edge:
        return []
    upper = [f"{sx(x)},{sy(high)}" for x, _, high in edge]
    lower = [f"{sx(x)},{sy(low)}" for x, low, _ in reversed(edge)]
    return [f'<polygon points="{" ".join(upper + lower)}" fill="{color}" fill-opacity="0.16" stroke="none"/>']


def _line(
    chart: Chart, series: Series, xs: Sequence[float], ys: Sequence[float], sx: Scale, sy: Scale, color: str
) -> list[str]:
    path = " ".join(f"{sx(x)},{sy(y)}" for x, y in zip(xs, ys, strict=True))
    name = html.escape(series.name)
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6" '
        f'stroke-linejoin="round"><title>{name}</title></polyline>'
    ]
    if chart.markers or len(xs) == 1:
        for x, y in zip(xs, ys, strict=True):
            tip = html.escape(f"{series.name}\n{chart.x} {compact(x)}\n{chart.y} {y:.6g}")
            parts.append(f'<circle cx="{sx(x)}" cy="{sy(y)}" r="2.8" fill="{color}"><title>{tip}</title></circle>')
    return parts


def _legend(chart: Chart) -> list[str]:
    named = [(index, series) for index, series in enumerate(chart.series) if series.name]
    if len(named) < 2:
        return []
    parts: list[str] = []
    for row, (index, series) in enumerate(named[:12]):
        y = HEIGHT + 14 + 17 * (row // 2)
        x = LEFT + (WIDTH - LEFT) / 2 * (row % 2)
        label = series.name if len(series.name) <= 38 else series.name[:37] + "…"
        parts.append(f'<rect x="{x}" y="{y - 9}" width="14" height="4" rx="2" fill="{_color(series, index)}"/>')
        parts.append(f'<text x="{x + 20}" y="{y - 3}" class="t">{html.escape(label)}</text>')
    return parts


def _frame(chart: Chart, body: Sequence[str]) -> str:
    legend = _legend(chart)
    height = HEIGHT + (17 * math.ceil(len(legend) / 4) + 8 if legend else 0)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    title, x_label, y_label = (html.escape(text) for text in (chart.title, chart.x, chart.y))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{title}" data-chart="{html.escape(chart.key)}">'
        "<style>.t{font:12px system-ui,sans-serif;fill:var(--ink,#333)}.h{font:600 14px system-ui,sans-serif;"
        "fill:var(--ink,#222)}.g{stroke:var(--grid,#e3e3e8)}.a{stroke:var(--axis,#8a8a94)}</style>"
        f'<text x="{LEFT}" y="19" class="h">{title}</text>{"".join(body)}'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle" class="t">{x_label}</text>'
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle" class="t">{y_label}</text>'
        f"{''.join(legend)}</svg>"
    )
