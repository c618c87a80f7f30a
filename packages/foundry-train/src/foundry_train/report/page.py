"""Write the report: one HTML file with everything inside, no server, no network, light and dark.

    summary of the runs -> evaluation -> training curves -> samples -> events -> data -> config -> environment

Each plot has two buttons that save it as SVG and its points as CSV. The script of the page only does that and switches
axes; with scripts off, everything can still be read.
"""

import html
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from foundry_data import fs
from foundry_train.report.charts import Chart, chart_csv
from foundry_train.report.png import write_pngs
from foundry_train.report.run_data import RunData, read_run
from foundry_train.report.svg import chart_svg
from foundry_train.report.trajectories import (
    AXES,
    evaluation_charts,
    kept_measurements,
    measurements,
    training_charts,
)

MOST_SAMPLES = 40
MOST_EVENTS = 200


def write_report(runs: Sequence[Path], target: Path, *, png: Path | None = None) -> Path:
    """Write the report of `runs` to `target`, and every chart to the folder `png` if one is given.

    Raises:
        ConfigError: A folder holds no run, or `png` is wanted without matplotlib.
        StorageError: `target` cannot be written.
    """
    read = [read_run(path) for path in runs]
    rows = measurements(read) + kept_measurements(read)
    charts = evaluation_charts(read, rows), training_charts(read)
    if png is not None:
        write_pngs([*charts[0], *charts[1]], png)
    fs.make_directories(target.parent)
    fs.write_atomic(target, _page(read, *charts).encode())
    return target


def _page(runs: Sequence[RunData], evaluated: Sequence[Chart], trained: Sequence[Chart]) -> str:
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    sections = [
        ("Runs", _summary(runs)),
        ("Evaluation", _axis_switch(evaluated)),
        ("Training", _figures(trained)),
        ("Samples", "".join(_samples(runs))),
        ("Events", "".join(_events(runs))),
        ("Data", "".join(_receipts(runs))),
        ("Config", "".join(_records(runs, "config"))),
        ("Environment", "".join(_records(runs, "environment"))),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections if content)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data: blob:\">"
        f"<title>{_text(title)} · Model Foundry</title><style>{_asset('report.css')}</style></head>"
        f"<body><header><h1>{_text(title)}</h1><p>Model Foundry report</p></header><main>{body}</main>"
        f"<script>{_asset('report.js')}</script></body></html>"
    )


def _asset(name: str) -> str:
    return resources.files("foundry_train.report").joinpath(name).read_text(encoding="utf-8")


def _text(value: Any) -> str:
    """Escape for HTML and show control characters instead of sending them."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in str(value))
    return html.escape(shown)


def _summary(runs: Sequence[RunData]) -> str:
    head = ("run", "seed", "steps", "tokens", "words", "first loss", "last loss", "starts")
    rows = [
        (
            run.name,
            run.seed,
            f"{run.last_step:,}",
            f"{_last(run, 'tokens'):,.0f}",
            f"{_last(run, 'words'):,.0f}",
            _loss(run, 0),
            _loss(run, -1),
            len(run.starts),
        )
        for run in runs
    ]
    return _table(head, rows)


def _last(run: RunData, key: str) -> float:
    return float(run.steps[-1].get(key) or 0) if run.steps else 0.0


def _loss(run: RunData, index: int) -> str:
    if not run.steps:
        return ""
    loss = run.steps[index].get("loss")
    return f"{loss:.4f}" if isinstance(loss, int | float) else str(loss)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _figures(charts: Sequence[Chart]) -> str:
    return f'<div class="figures">{"".join(_figure(chart) for chart in charts)}</div>' if charts else ""


def _figure(chart: Chart) -> str:
    key = _text(chart.key)
    return (
        f'<figure id="{key}">{chart_svg(chart)}<figcaption>{_text(chart.note)}'
        f'<button type="button" data-save="svg">SVG</button><button type="button" data-save="csv">CSV</button>'
        f'</figcaption><template class="csv">{_text(chart_csv(chart))}</template></figure>'
    )


def _axis_switch(charts: Sequence[Chart]) -> str:
    """Show one axis at a time; without scripts all of them stand below each other."""
    if not charts:
        return ""
    buttons = "".join(f'<button type="button" data-axis="{axis}">{axis}</button>' for axis in AXES)
    groups = "".join(
        f'<div data-axis-group="{axis}"><h3>against {axis}</h3>{_figures([c for c in charts if c.x == axis])}</div>'
        for axis in AXES
    )
    return f'<nav class="axes" aria-label="horizontal axis">{buttons}</nav>{groups}'


def _samples(runs: Sequence[RunData]) -> Iterator[str]:
    for run in runs:
        if run.samples:
            yield f"<h3>{_text(run.name)}</h3>"
        for record in run.samples[-MOST_SAMPLES:]:
            prompt, text = _text(record.get("prompt", "")), _text(record.get("text", ""))
            yield f"<p><b>step {_text(record.get('step'))}</b></p><blockquote><b>{prompt}</b>{text}</blockquote>"


def _events(runs: Sequence[RunData]) -> Iterator[str]:
    for run in runs:
        rows = [(e.get("step", ""), e.get("event", ""), _details(e)) for e in run.events[-MOST_EVENTS:]]
        rows += [(e.get("from_step") or 0, e.get("event", "start"), _details(e)) for e in run.starts]
        if rows:
            yield f"<h3>{_text(run.name)}</h3>" + _table(("step", "event", "details"), rows)


def _details(record: dict[str, Any]) -> str:
    hidden = {"kind", "event", "step", "from_step", "time", "fingerprint"}
    return ", ".join(f"{key} {value}" for key, value in record.items() if key not in hidden and value not in (None, ""))


def _receipts(runs: Sequence[RunData]) -> Iterator[str]:
    for run in runs:
        for receipt in run.receipts:
            name = _text(receipt.get("name", receipt.get("step", "receipt")))
            yield f"<details><summary>{_text(run.name)}: {name}</summary>{_json(receipt)}</details>"


def _records(runs: Sequence[RunData], field: str) -> Iterator[str]:
    for run in runs:
        record = getattr(run, field)
        if record:
            yield f"<details><summary>{_text(run.name)}</summary>{_json(record)}</details>"


def _json(value: Any) -> str:
    pretty = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return f"<pre>{_text(pretty)}</pre>"
