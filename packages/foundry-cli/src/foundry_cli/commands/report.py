"""`foundry report` and `foundry compare`: what became of runs, to look at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foundry_cli.console import note, say, say_json, say_table
from foundry_cli.options import JsonOption

if TYPE_CHECKING:
    from foundry_train.report import Comparison

RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or config files.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="File to write.", show_default="in the run"),
]
PngOption = Annotated[
    Path | None, typer.Option("--png", metavar="DIR", help="Write every plot as PNG too, for papers.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a config file.")]


def report(runs: RunsArgument, out: OutOption = None, png: PngOption = None) -> None:
    """Write one self-contained HTML file: curves, evaluations, samples, events, config, environment, receipts.

    A run that has not begun to train is left out, with its reason.
    """
    from foundry_cli.targets import find_run
    from foundry_config import ConfigError
    from foundry_train.report import write_report

    folders = [find_run(run) for run in runs]
    if out is None and len(folders) > 1:
        raise ConfigError(f"a report of {len(folders)} runs needs a name: --out report.html")
    target = out or folders[0] / "report.html"
    say(f"wrote {write_report(_begun(folders), target, png=png)}")
    if png is not None:
        say(f"wrote the plots to {png}")


def _begun(runs: list[Path]) -> list[Path]:
    """Return the runs that have something to show, and say why others are left out."""
    from foundry_config import ConfigError
    from foundry_train.run_record import why_not_begun

    reasons = {run: reason for run in runs if (reason := why_not_begun(run))}
    if len(reasons) == len(runs):
        raise ConfigError("\n".join(f"{run} {reason}" for run, reason in reasons.items()))
    for run, reason in reasons.items():
        note(f"left out: {run} {reason}")
    return [run for run in runs if run not in reasons]


def compare(a: RunArgument, b: RunArgument, json: JsonOption = False) -> None:
    """Hold two runs against each other: config, the first step that differs, and both loss curves."""
    import msgspec

    from foundry_cli.targets import find_run
    from foundry_train.report import compare_runs

    found = compare_runs(find_run(a), find_run(b))
    if json:
        say_json(msgspec.to_builtins(found, enc_hook=str))
    else:
        _show(found)


def _show(found: "Comparison") -> None:
    say("config")
    for change in found.changes:
        say(f"  {change} ({change.field_class})")
    if not found.changes:
        say("  equal")
    difference = found.first_difference
    if difference is None:
        say(f"metrics\n  equal in all {found.shared_steps} steps that both have")
    else:
        say(f"metrics\n  first differ at step {difference.step}: {difference.key} {difference.a} and {difference.b}")
    say("loss")
    rows = [[str(point.step), _loss(point.a), _loss(point.b), _difference(point.a, point.b)] for point in found.curve]
    say_table(("step", "a", "b", "b - a"), rows)


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _difference(a: float | None, b: float | None) -> str:
    return "" if a is None or b is None else f"{b - a:+.4f}"
