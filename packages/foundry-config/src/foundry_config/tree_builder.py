"""Build a tree of nodes from parse events, within bounds that no honest config comes near.

Every reader feeds one of these, so that YAML, TOML and JSON share what is refused: a key given twice, nesting without
end, and documents that grow when their aliases are followed.
"""

from typing import Any, NoReturn

from foundry_config.origins import Node, Path, Place, Source
from foundry_config.problems import Problem

MAX_BYTES = 2**18
MAX_DEPTH = 40
MAX_NODES = 20_000


class TooMuch(Exception):
    """The document passes a bound; the problem is already recorded and reading stops."""


class TreeBuilder:
    """Takes the events of one document and keeps the tree, the problems and the path of what is open."""

    def __init__(self, source: Source, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        self.root: Node | None = None
        self._open: list[Node] = []
        self._keys: list[tuple[str, Place] | None] = []  # the key that waits for its value, one for each open node
        self._nodes = 0

    def place(self, line: int, column: int) -> Place:
        """Return a place in this document."""
        return Place(self.source, line, column)

    def wants_key(self) -> bool:
        """Say whether the next scalar is the key of a mapping."""
        return bool(self._open) and self._open[-1].fields is not None and self._keys[-1] is None

    def path(self) -> Path:
        """Return the path of the value that is read now."""
        steps: list[str | int] = []
        for node, key in zip(self._open, self._keys):
            if key is not None:
                steps.append(key[0])
            elif (items := node.items) is not None:
                steps.append(len(items) if node is self._open[-1] else len(items) - 1)
        return tuple(steps)

    def problem(self, place: Place, message: str) -> None:
        """Record what is wrong at `place`, which belongs to the value that is read now."""
        self.problems.append(Problem(place, dotted(self.path()), message))

    def is_too_much(self, text: str) -> bool:
        """Say whether a text that is not parsed yet has far more commas and `=` than a config, and note it."""
        if text.count(",") + text.count("=") <= 2 * MAX_NODES:
            return False
        self.problems.append(Problem(self.place(1, 1), "", f"holds more than {MAX_NODES} values"))
        return True

    def key(self, text: str, place: Place) -> None:
        """Take the key of the next value; a key that is there already is a problem and the later value is used."""
        earlier: Node | None = self._open[-1].value.get(text)
        self._keys[-1] = (text, place)
        if earlier is not None:
            first = earlier.key or earlier.place
            self.problem(place, f"this key is given twice; it stands on line {first.line} already")

    def scalar(self, value: Any, place: Place) -> Node:
        """Take a value that holds nothing else."""
        node = self._add(Node(value, place), 1)
        self._value_done()
        return node

    def alias(self, target: Node, size: int, place: Place) -> None:
        """Take the value of an anchor, `size` nodes in all, at another place."""
        if len(self._open) + height(target) > MAX_DEPTH:
            self.stop(place, f"nested more than {MAX_DEPTH} levels deep")
        self._add(Node(target.value, place), size)
        self._value_done()

    def start(self, container: "dict[str, Node] | list[Node]", place: Place) -> Node:
        """Open a mapping or a list."""
        node = self._add(Node(container, place), 1)
        self._open.append(node)
        self._keys.append(None)
        if len(self._open) > MAX_DEPTH:
            self.stop(place, f"nested more than {MAX_DEPTH} levels deep")
        return node

    def end(self) -> Node:
        """Close what was opened last."""
        self._keys.pop()
        node = self._open.pop()
        self._value_done()
        return node

    @property
    def nodes(self) -> int:
        """How many values there are so far, those behind aliases included."""
        return self._nodes

    def stop(self, place: Place, message: str) -> NoReturn:
        """Record a problem that ends the reading.

        Raises:
            TooMuch: Always.
        """
        self.problems.append(Problem(place, "", message))
        raise TooMuch(message)

    def _add(self, node: Node, size: int) -> Node:
        self._nodes += size
        if self._nodes > MAX_NODES:
            self.stop(node.place, f"holds more than {MAX_NODES} values (aliases counted out)")
        if not self._open:
            self.root = node
            return node
        parent = self._open[-1]
        if parent.items is not None:
            parent.items.append(node)
        elif parent.fields is not None:
            key = self._keys[-1]
            assert key is not None, "a reader names the key before the value"
            node.key = key[1]
            parent.fields[key[0]] = node
        return node

    def _value_done(self) -> None:
        if self._keys:
            self._keys[-1] = None


def height(node: Node) -> int:
    """Return how many levels of mappings and lists `node` holds, itself included; 0 for a scalar."""
    children = list(node.fields.values()) if node.fields is not None else node.items
    if children is None:
        return 0
    return 1 + max((height(child) for child in children), default=0)


def dotted(path: Path) -> str:
    """Return ``a.b[0]`` for ``("a", "b", 0)``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
