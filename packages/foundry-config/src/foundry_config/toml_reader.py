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
from foundry_config.origins import Node, Path, Place, Source
from foundry_config.problems import Problem
from foundry_config.shapes import is_list, is_mapping
from foundry_config.tree_builder import TooMuch, TreeBuilder

TOKEN = re.compile(
    r'''[ \t]+|\#[^\n]*|"""(?:[^\\]|\\.)*?"""+|\'\'\'.*?\'\'\'+'''
    r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\[\]{}=,.]|\n|[^\s\[\]{}=,.#"']+""",
    re.DOTALL,
)
LONG_KEY = re.compile(r"""(?<![\w"'-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){100}""", re.ASCII)
ERROR_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Token(NamedTuple):
    """A piece of the text that is neither space nor comment."""

    text: str
    offset: int


class Spot(NamedTuple):
    """Offsets of a value and of its key."""

    value: int
    key: int


def read_toml(text: str, source: Source, problems: list[Problem]) -> Node | None:
    """Return the tree of `text`, or None where it cannot be read at all; what is wrong is added to `problems`."""
    builder = TreeBuilder(source, problems)
    if builder.is_too_much(text):
        return None
    if LONG_KEY.search(text):  # tomllib would take time that grows with the square of its length
        problems.append(Problem(builder.place(1, 1), "", "a dotted key of more than 100 parts"))
        return None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(_syntax_problem(str(error), builder, source))
        return None
    except RecursionError:
        problems.append(Problem(builder.place(1, 1), "", "not valid TOML: nested too deep"))
        return None
    except ValueError as error:  # an integer of more digits than Python reads
        problems.append(Problem(builder.place(1, 1), "", f"not valid TOML: {error}"))
        return None
    try:
        _add(data, (), builder, Spots(text), LineIndex(text))
    except TooMuch:
        return None
    return builder.root


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


def _syntax_problem(message: str, builder: TreeBuilder, source: Source) -> Problem:
    found = ERROR_PLACE.search(message)
    message = ERROR_PLACE.sub("", message)
    place: Place = builder.place(max(len(source.lines), 1), 1)
    if found and found[1]:
        place = builder.place(int(found[1]), int(found[2]))
    if any(word in message for word in ("overwrite", "Duplicate", "declare", "mutate", "Redefin")):
        message += "; this key or table is given twice"
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
