"""A problem of a config, and how it is shown.

tiny.yaml:12:18: training.learning_rate: must be a number greater than 0, got 'fast'
   12 |   learning_rate: fast
      |                  ^
"""

from collections.abc import Sequence

from msgspec import Struct

from foundry_config.errors import ConfigError
from foundry_config.origins import Place

CONTEXT_COLUMNS = 100  # of a source line that are shown around the caret


class Problem(Struct, frozen=True):
    """One thing that is wrong: where, which field, and what."""

    place: Place | None
    path: str
    message: str

    def __str__(self) -> str:
        parts = (str(self.place) if self.place else "", self.path, self.message)
        return ": ".join(visible(part) for part in parts if part)

    def excerpt(self) -> str:
        """Return the source line with a caret under the column, or an empty string where there is no line."""
        if self.place is None or not 0 < self.place.line <= len(self.place.source.lines):
            return ""
        line = self.place.source.lines[self.place.line - 1]
        column = min(max(self.place.column - 1, 0), len(line))
        start = max(0, column - CONTEXT_COLUMNS * 3 // 4)
        shown = visible(line[start : start + CONTEXT_COLUMNS].replace("\t", " "))
        before = visible(line[start:column].replace("\t", " "))
        number = f"{self.place.line:5} | "
        return f"{number}{shown}\n{' ' * (len(number) - 2)}| {' ' * len(before)}^"


def visible(text: str) -> str:
    r"""Return `text` with everything that could act on a terminal or hide itself written as an escape.

    >>> visible("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def refusal(problems: Sequence[Problem], *, name: str) -> ConfigError:
    """Return the error that lists `problems` in the order of their places."""
    ordered = tuple(sorted(problems, key=_order))
    lines = [str(problem) for problem in ordered]
    if len(lines) > 1:
        lines.insert(0, f"{len(lines)} problems in {visible(name)}:")
    return ConfigError("\n".join(lines), problems=ordered)


def _order(problem: Problem) -> tuple[bool, str, int, int, str]:
    place = problem.place
    if place is None:
        return (False, "", 0, 0, problem.path)
    return (
        place.line == 0,
        place.source.name,
        place.line,
        place.column,
        "",
    )  # at one place: in the order of the schema
