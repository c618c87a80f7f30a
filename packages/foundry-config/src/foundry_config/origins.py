"""Where a value of a config comes from, so that an error can point at it.

    training:                    Node(value={...},  place=tiny.yaml:1:10)
      learning_rate: 3e-4          Node(value=3e-4, place=tiny.yaml:2:18, key=tiny.yaml:2:3)

A tree of nodes is what every reader (YAML, TOML, JSON, `--set`, the environment) makes, and what layers are merged in.
"""

from typing import Any, TypeAlias

from msgspec import Struct

Path: TypeAlias = tuple[str | int, ...]


class Source(Struct, frozen=True):
    """A file, an override or an environment variable."""

    name: str
    lines: tuple[str, ...] = ()


class Place(Struct, frozen=True):
    """A position in a source; lines and columns count from 1, line 0 means the source as a whole."""

    source: Source
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}" if self.line else self.source.name


class Node(Struct):
    """A value, where it stands, and where its key stands; `value` is a dict or list of nodes, or a scalar."""

    value: Any
    place: Place
    key: Place | None = None

    @property
    def fields(self) -> "dict[str, Node] | None":
        """The nodes of a mapping by key; None for anything else."""
        return self.value if isinstance(self.value, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]

    @property
    def items(self) -> "list[Node] | None":
        """The nodes of a list; None for anything else."""
        return self.value if isinstance(self.value, list) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def plain(node: Node) -> Any:
    """Return the data of a tree without its positions."""
    if (fields := node.fields) is not None:
        return {key: plain(child) for key, child in fields.items()}
    if (items := node.items) is not None:
        return [plain(item) for item in items]
    return node.value


def moved(node: Node, place: Place) -> Node:
    """Return a copy of a tree with every node of it at `place`."""
    if (fields := node.fields) is not None:
        return Node({key: moved(child, place) for key, child in fields.items()}, place, place)
    if (items := node.items) is not None:
        return Node([moved(item, place) for item in items], place, place)
    return Node(node.value, place, place)


def merge(base: Node, top: Node) -> Node:
    """Return `base` with everything that `top` says laid over it: mappings join, everything else is replaced.

    A mapping that both have stands where `top` has it, unless only `base` has it in a file: what is missing in it is
    missing in that file, whatever an override says of another field.
    """
    below, above = base.fields, top.fields
    if below is None or above is None:
        return top
    merged = dict(below)
    for key, child in above.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    nearest = base if base.place.line and not top.place.line else top
    return Node(merged, nearest.place, nearest.key)


def locate(root: Node, path: Path, *, at_key: bool = False) -> Place:
    """Return the place of the value at `path` (or of its key), or of its nearest ancestor that exists."""
    node = root
    for step in path:
        child = _child(node, step)
        if child is None:
            return node.key or node.place
        node = child
    return (node.key or node.place) if at_key else node.place


def _child(node: Node, step: str | int) -> Node | None:
    fields, items = node.fields, node.items
    if fields is not None and isinstance(step, str):
        return fields.get(step)
    if items is not None and isinstance(step, int) and step < len(items):
        return items[step]
    return None
