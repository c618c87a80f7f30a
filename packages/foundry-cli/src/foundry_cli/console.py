"""Where the commands write: results to standard output, progress and messages to standard error.

So `foundry plan --json | jq .` gets JSON and nothing else, and `foundry train > summary.txt` still shows its progress.
Text that comes from a corpus, a config or an error passes through `figures.plain` and is never read as markup.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from foundry_cli.figures import plain
from foundry_cli.streams import results

if TYPE_CHECKING:
    from rich.console import Console


def out() -> "Console":
    """Make the console of the results (standard output as it is at this moment)."""
    return _console(sys.stdout)


def err() -> "Console":
    """Make the console of progress, messages and errors (standard error)."""
    return _console(sys.stderr)


def say(text: str = "") -> None:
    """Write a line to standard output, control characters spelled out. Needs no rich, so it is instant."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def write(text: str) -> None:
    """Write a piece of text to standard output as it is being made, control characters spelled out."""
    sys.stdout.write(plain(text))
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a line to standard error, control characters spelled out. Needs no rich, so it is instant."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    """Write `value` as indented JSON to standard output; numbers that are not finite become "nan", "inf", "-inf"."""
    from foundry_config.spoken_numbers import speakable  # late: plain lines must not wait for the config structs

    stream = results()
    stream.write(json.dumps(speakable(value), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    stream.flush()


def say_facts(title: str, facts: Iterable[tuple[str, str]]) -> None:
    """Write a titled block of aligned `name  value` lines to standard output; values may have several lines."""
    rows = list(facts)
    width = max((len(name) for name, _ in rows), default=0)
    if title:
        say(title)
    for name, value in rows:
        first, *rest = plain(value).split("\n")
        say(f"  {name:<{width}}  {first}")
        for line in rest:
            say(f"  {'':<{width}}  {line}")


def say_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Iterable[str] = ()) -> None:
    """Write a table to standard output: columns named in `left` are left-aligned, numbers to the right."""
    body = [[plain(cell, keep="") for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *body]) for i in range(len(columns))]
    to_left = set(left)
    for line in [list(columns), *body]:
        cells = [
            cell.ljust(width) if name in to_left else cell.rjust(width)
            for name, cell, width in zip(columns, line, widths)
        ]
        say("  " + "  ".join(cells).rstrip())


def _console(stream: Any) -> "Console":
    # rich takes 0.1 s to import: commands that print plain lines must not pay for it
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
