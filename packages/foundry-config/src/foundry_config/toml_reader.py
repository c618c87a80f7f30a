"""Read TOML 1.0 with the place of every key and value.

The standard library decides what is valid, keys given twice included, and gives the values. The places come from one
pass over the tokens of the then valid text:

    [training]                     table header: what follows lies in ("training",)
    optimizer = "adamw"            key path, `=`, value
    checkpoint_schedule = [1, {every_steps = 5}]
"""

import re
import tomllib
from typing import Any, NamedTuple

from foundry_config.json_reader import LineIndex
from foundry_config.origins import Node, Path, Source
from foundry_config.problems import Problem
from foundry_config.shapes import is_list, is_mapping
from foundry_config.tree_builder import TooMuch, TreeBuilder, dotted

TOKEN = re.compile(
    r'''[ \t]+|\#[^\n]*|"""(?:[^\\]|\\.)*?"""+|\'\'\'.*?\'\'\'+'''
    r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\[\]{}=,.]|\n|[^\s\[\]{}=,.#"']+""",
    re.DOTALL,
)
LONG_KEY = re.compile(r"""(?<![\w"'-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){100}""", re.ASCII)
HEADER = re.compile(r"\s*\[(?!\[)[^\[\]=,]+\]\s*(?:#.*)?\Z")
MAX_REPEATED, MAX_REPEATED_TEXT = 10, 20_000  # keys given twice that are told apart, and characters of such a text
ERROR_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Token(NamedTuple):
    """A piece of the text that is neither space nor comment."""

    text: str
    offset: int


class Spot(NamedTuple):
    """Offsets of a value and of its key."""

    value: int
    key: int


class Reading(NamedTuple):
    """What a text holds, the text without the pairs that repeat a key, and the lines of those."""

    data: dict[str, Any]
    text: str
    repeated: tuple[int, ...]


def read_toml(text: str, source: Source, problems: list[Problem]) -> Node | None:
    """Return the tree of `text`, or None where it cannot be read at all; what is wrong is added to `problems`."""
    builder = TreeBuilder(source, problems)
    if builder.is_too_much(text):
        return None
    if LONG_KEY.search(text):  # tomllib would take time that grows with the square of its length
        problems.append(Problem(builder.place(1, 1), "", "a dotted key of more than 100 parts"))
        return None
    reading = _read(text, builder, source)
    if reading is None:
        return None
    spots, position = Spots(reading.text), LineIndex(reading.text)
    problems.extend(_repeated_problem(line, builder, source, spots, position) for line in reading.repeated)
    try:
        _add(reading.data, (), builder, spots, position)
    except TooMuch:
        return None
    return builder.root


def _read(text: str, builder: TreeBuilder, source: Source) -> Reading | None:
    """Return what the text holds; tomllib stops at a key given twice, and without that line the rest can be read."""
    repeated: list[int] = []
    while True:
        try:
            return Reading(tomllib.loads(text), text, tuple(repeated))
        except tomllib.TOMLDecodeError as error:
            line = _repeating_line(str(error), text) if len(repeated) < MAX_REPEATED else None
            if line is None:
                builder.problems.append(_syntax_problem(str(error), builder, source))
                return None
            repeated.append(line)
            text = _without_line(text, line)
        except (RecursionError, ValueError) as error:  # ValueError: an integer of more digits than Python reads
            what = "nested too deep" if isinstance(error, RecursionError) else str(error)
            builder.problems.append(Problem(builder.place(1, 1), "", f"not valid TOML: {what}"))
            return None


def _add(data: Any, path: Path, builder: TreeBuilder, spots: "Spots", position: LineIndex) -> None:
    place = builder.place(*position(spots.of(path).value))
    if is_mapping(data):
        builder.start({}, place)
        for key, value in data.items():
            below = (*path, key)
            builder.key(key, builder.place(*position(spots.of(below).key)))
            _add(value, below, builder, spots, position)
        builder.end()
    elif is_list(data):
        builder.start([], place)
        for index, item in enumerate(data):
            _add(item, (*path, index), builder, spots, position)
        builder.end()
    else:
        builder.scalar(data, place)


def _repeating_line(message: str, text: str) -> int | None:
    """Return the line, from 1, of a whole pair whose key is there already; None where that is not what is wrong."""
    found = ERROR_PLACE.search(message)
    if "overwrite" not in message or found is None or len(text) > MAX_REPEATED_TEXT:
        return None
    line = int(found[1]) if found[1] else text.rstrip().count("\n") + 1
    pair = text.split("\n")[line - 1]
    if pair.lstrip()[:1] in ("[", "#"):
        return None
    try:  # the end of a longer value is no pair of its own
        return line if tomllib.loads(pair) else None
    except ValueError:
        return None


def _without_line(text: str, line: int) -> str:
    lines = text.split("\n")
    lines[line - 1] = ""
    return "\n".join(lines)


def _repeated_problem(line: int, builder: TreeBuilder, source: Source, spots: "Spots", position: LineIndex) -> Problem:
    text = source.lines[line - 1]
    headers = [above for above in source.lines[:line] if HEADER.match(above)]
    path: Path = ()
    inner: Any = tomllib.loads("\n".join([*headers[-1:], text]))
    while is_mapping(inner):
        path = (*path, next(iter(inner)))
        inner = inner[path[-1]]
    first, _ = position(spots.of(path).key)
    place = builder.place(line, len(text) - len(text.lstrip()) + 1)
    return Problem(place, dotted(path), f"this key is given twice; it stands on line {first} already")


def _syntax_problem(message: str, builder: TreeBuilder, source: Source) -> Problem:
    found = ERROR_PLACE.search(message)
    message = ERROR_PLACE.sub("", message)
    line, column = (int(found[1]), int(found[2])) if found and found[1] else (max(len(source.lines), 1), 1)
    if any(word in message for word in ("overwrite", "Duplicate", "declare", "mutate", "Redefin")):
        message += "; this key or table is given twice"
        if HEADER.match(source.lines[line - 1]):
            column = 1
    place = builder.place(line, column)
    return Problem(place, "", f"not valid TOML: {message}")


class Spots:
    """Where the keys and values of a valid TOML text stand."""

    def __init__(self, text: str) -> None:
        self._tokens = [Token(match[0], match.start()) for match in TOKEN.finditer(text) if not _blank(match[0])]
        self._next = 0
        self._spots: dict[Path, Spot] = {(): Spot(0, 0)}
        self._arrays: dict[Path, int] = {}  # tables of `[[name]]` seen so far
        self._read_document()

    def of(self, path: Path) -> Spot:
        """Return where `path` stands; what stands nowhere of its own has the place of what holds it."""
        while path not in self._spots:
            path = path[:-1]
        return self._spots[path]

    def _read_document(self) -> None:
        table: Path = ()
        while (token := self._peek()) is not None:
            if token.text == "\n":
                self._take()
            elif token.text == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        start = self._take()
        is_array = self._at("[")
        if is_array:
            self._take()
        path = self._key_path((), "]")
        self._take()
        if is_array:
            self._take()
            self._arrays[path] = self._arrays.get(path, -1) + 1
            self._note(path, start.offset, start.offset)
            path = (*path, self._arrays[path])
        self._spots[path] = Spot(start.offset, start.offset)
        return path

    def _pair(self, table: Path) -> None:
        path = self._key_path(table, "=")
        self._take()
        self._spots[path] = Spot(self._tokens[self._next].offset, self._spots[path].key)
        self._value(path)

    def _key_path(self, table: Path, end: str) -> Path:
        """Read `a."b".c` up to `end`; the names of a dotted key that stand for tables get their place here."""
        path = table
        while not self._at(end):
            token = self._take()
            if token.text == ".":
                continue
            path = (*path, _name(token.text))
            if path in self._arrays and not self._is_last(end):
                path = (*path, self._arrays[path])
            self._note(path, token.offset, token.offset)
        return path

    def _is_last(self, end: str) -> bool:
        return self._at(end)

    def _value(self, path: Path) -> None:
        opening = self._take().text
        if opening == "[":
            self._array(path)
        elif opening == "{":
            while not self._at("}"):
                self._take() if self._at(",") or self._at("\n") else self._pair(path)
            self._take()
        else:
            while (token := self._peek()) is not None and token.text not in (",", "]", "}", "\n"):
                self._take()  # the rest of a number with a point, or of a date with a space

    def _array(self, path: Path) -> None:
        index = 0
        while not self._at("]"):
            if self._at(",") or self._at("\n"):
                self._take()
                continue
            offset = self._tokens[self._next].offset
            self._spots[(*path, index)] = Spot(offset, offset)
            self._value((*path, index))
            index += 1
        self._take()

    def _note(self, path: Path, value: int, key: int) -> None:
        self._spots.setdefault(path, Spot(value, key))

    def _peek(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self) -> Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _at(self, text: str) -> bool:
        token = self._peek()
        return token is None or token.text == text


def _blank(text: str) -> bool:
    return text[0] in " \t#" or text == "\r"


def _name(token: str) -> str:
    if token[0] in "\"'":
        parsed: Any = tomllib.loads(f"x = {token}")["x"]
        return str(parsed)
    return token
