"""`foundry compare`: what two runs differ in, and from which step on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from foundry_cli.console import say, say_json, say_table
from foundry_cli.options import BaseDirOption, JsonOption

if TYPE_CHECKING:
    from foundry_train.report import Comparison


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run folder, or a config file.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write a report with both curves.")] = None,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two runs: config, first step that differs, loss curves."""
    from foundry_cli.targets import find_run
    from foundry_train.report import compare_runs, write_report

    folders = find_run(a, base_dir=base_dir), find_run(b, base_dir=base_dir)
    found = compare_runs(*folders)
    if json:
        say_json(msgspec.to_builtins(found))
    else:
        _say(found)
    if out is not None:
        target = write_report(folders, out)
        if not json:
            say(f"both curves: {target}")


def _say(found: "Comparison") -> None:
    say(f"config of {found.a} -> {found.b}")
    for change in found.changes:
        say(f"  {change} ({change.field_class})")
    if not found.changes:
        say("  equal")
    say(_first_difference(found))
    rows = [(str(point.step), _loss(point.a), _loss(point.b), _difference(point.a, point.b)) for point in found.curve]
    if rows:
        say_table(("step", "loss of a", "loss of b", "b - a"), rows)


def _first_difference(found: "Comparison") -> str:
    first = found.first_difference
    if not found.shared_steps:
        return "no step that both have"
    if first is None:
        return f"equal in all {found.shared_steps} steps that both have"
    return f"first difference at step {first.step}: {first.key} is {first.a} in a and {first.b} in b"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _difference(a: float | None, b: float | None) -> str:
    return "" if a is None or b is None else f"{b - a:+.5f}"
