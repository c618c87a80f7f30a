"""Collect what a config is made of, each layer over the one before.

included files  <  the file itself  <  FOUNDRY__SECTION__FIELD in the environment  <  --set section.field=value
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from foundry_config.lookup import closest, did_you_mean
from foundry_config.origins import Node, Place, Source, merge, moved
from foundry_config.problems import Problem
from foundry_config.tree_builder import MAX_BYTES, MAX_DEPTH
from foundry_config.yaml_reader import read_yaml

ENVIRONMENT_PREFIX = "FOUNDRY__"
MAX_INCLUDES = 50
MAX_SHOWN = 200  # characters of an override in a message
FORBIDDEN = {  # what cannot stand in a text as it is; in quotes every format has escapes for it
    # for libyaml U+0085, U+2028 and U+2029 end a line, as in YAML 1.1, but not in YAML 1.2
    "yaml": "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]",
    "toml": "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]",
    "json": "[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]",
}
ALTERNATIVES = (("training", frozenset({"warmup_steps", "warmup_ratio"})),)  # fields that say one thing in two ways
SUFFIXES = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def read_text(text: str, *, format: str, source_name: str, problems: list[Problem]) -> Node | None:  # noqa: A002
    """Return the tree of a text in YAML, TOML or JSON; None where it is no mapping or cannot be read."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if format == "yaml":  # where a carriage return alone ends a line too
        text = text.replace("\r", "\n")
    source = Source(source_name, tuple(text.split("\n")))
    if found := re.search(FORBIDDEN[format], text):
        line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
        problems.append(
            Problem(Place(source, line, column), "", f"the character {found[0]!r} cannot stand in a config")
        )
        return None
    before = len(problems)
    root = _reader(format)(text, source, problems)
    if root is not None and root.fields is not None:
        return root
    if root is not None and root.value is not None:
        problems.append(Problem(root.place, "", "a config is a mapping of sections (`data:`, `model:`, ...) to fields"))
    elif len(problems) == before:
        problems.append(
            Problem(Place(source, 1, 1), "", "the config is empty; `foundry init` writes one to start from")
        )
    return None


def read_environment(environ: Mapping[str, str], problems: list[Problem]) -> Node | None:
    """Return the tree that the variables FOUNDRY__SECTION__FIELD make, or None when there are none.

    A name that is almost one of these (`FOUNDRY_SECTION_FIELD`) is a problem: it would be ignored without a word.
    """
    root: Node | None = None
    for name in sorted(name for name in environ if name.upper().startswith("FOUNDRY_")):
        source = Source(f"environment variable {name}")
        is_ours = name.upper().startswith(ENVIRONMENT_PREFIX)
        keys = [key.lower() for key in name[len(ENVIRONMENT_PREFIX) :].split("__")] if is_ours else []
        if is_ours and not all(keys):
            problems.append(Problem(Place(source), "", "name a variable FOUNDRY__SECTION__FIELD"))
        elif meant := _meant_variable(name, keys):
            what = "unknown field" if is_ours else "two underscores stand before a section and before a field"
            problems.append(Problem(Place(source), ".".join(keys), f"{what}. Did you mean {meant!r}?"))
        elif is_ours:
            root = _lay(root, keys, environ[name], source, problems)
    return root


def read_overrides(overrides: Sequence[str], problems: list[Problem]) -> Node | None:
    """Return the tree that overrides of the form `section.field=value` make, later ones over earlier ones."""
    root: Node | None = None
    for override in overrides:
        target, equals, value = override.partition("=")
        source = Source(f"--set {override if len(override) <= MAX_SHOWN else override[:MAX_SHOWN] + '...'}")
        keys = [key.strip() for key in target.split(".")]
        if not equals or not all(keys):
            problems.append(Problem(Place(source), "", "write an override as section.field=value"))
        else:
            root = _lay(root, keys, value, source, problems)
    return root


def _lay(root: Node | None, keys: list[str], text: str, source: Source, problems: list[Problem]) -> Node | None:
    """Return `root` with the value written in `text` at the path `keys`."""
    place = Place(source)
    if message := _path_problem(keys):
        problems.append(Problem(place, keys[0], message))
        return root
    if keys[0] == "matrix" and len(keys) > 1:  # whose keys are themselves paths
        keys = ["matrix", ".".join(keys[1:])]
    found: list[Problem] = []
    value = read_value(text, source, found)
    problems.extend(Problem(place, ".".join(keys), problem.message) for problem in found)
    if value is None:
        return root
    for key in reversed(keys):
        value = Node({key: value}, place, place)
        inner: dict[str, Node] = value.value
        inner[key].key = place
    return value if root is None else merge(root, value)


def _path_problem(keys: Sequence[str]) -> str | None:
    if len(keys) > MAX_DEPTH:
        return f"names more than {MAX_DEPTH} levels"
    return "only a file can include another file" if keys[0] == "include" else None


def _meant_variable(name: str, keys: Sequence[str]) -> str | None:
    """Return the variable that `name`, which sets no field, is likely to stand for."""
    # here and not above: only who sets such variables waits for it
    from foundry_config.fields import field_classes

    known = {path: f"{ENVIRONMENT_PREFIX}{path.replace('.', '__').upper()}" for path in field_classes()}
    if not keys:
        return next((right for right in known.values() if _squeezed(right) == _squeezed(name)), None)
    sections = [path.split(".") for path in known]
    if keys == ["include"] or any(section[: len(keys)] == keys[: len(section)] for section in sections):
        return None
    meant = closest(".".join(keys), known)
    return known[meant] if meant else None


def _squeezed(name: str) -> str:
    return name.upper().replace("__", "_")


def lay_over(base: Node, top: Node) -> Node:
    """Return `base` with all that `top` says laid over it; saying a thing in one way displaces the other way.

    So `--set training.warmup_steps=20` counts although the file has `warmup_ratio: 0.1`, as it would over a file with
    `warmup_steps: 5`. Both ways in the same layer are left for the rules to refuse.
    """
    for section, ways in ALTERNATIVES:
        below, above = ((node.fields or {}).get(section) for node in (base, top))
        if below is None or above is None or below.fields is None:
            continue
        said = [way for way, child in (above.fields or {}).items() if way in ways and child.value is not None]
        if len(said) == 1:
            kept = {key: child for key, child in below.fields.items() if key not in ways}
            fields = {**(base.fields or {}), section: Node(kept, below.place, below.key)}
            base = Node(fields, base.place, base.key)
    return merge(base, top)


def read_value(text: str, source: Source, problems: list[Problem]) -> Node | None:
    """Return the tree of one value in YAML, all of it at `source` as a whole; an empty text is null."""
    if re.search(FORBIDDEN["yaml"], text) or len(text) > MAX_BYTES:
        problems.append(Problem(Place(source), "", "control characters or too long"))
        return None
    node = read_yaml(text, source, problems)
    if node is None and not problems:
        return Node(None, Place(source))
    return None if node is None else moved(node, Place(source))


class ConfigFiles:
    """Reads a file and what it includes, and refuses a file that includes itself by any way."""

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems
        self._count = 0
        self.is_complete = True
        """Whether everything that was included could be read; if not, what seems to be missing may stand there."""

    def read(self, path: Path) -> Node | None:
        """Return the tree of the file at `path`, laid over everything that it includes."""
        return self._read(path, Place(Source(str(path))), ())

    def _read(self, path: Path, asked_by: Place, chain: tuple[Path, ...]) -> Node | None:
        text = self._text(path, asked_by, chain)
        if text is None:
            return None
        format_name = SUFFIXES.get(path.suffix.lower(), "yaml")
        root = read_text(text, format=format_name, source_name=str(path), problems=self._problems)
        if root is None:
            return None
        fields: dict[str, Node] = dict(root.value)
        includes = fields.pop("include", None)
        merged: Node | None = None
        for name, place in self._names(includes):
            base = self._read(path.parent / name, place, (*chain, path.resolve()))
            if base is None:
                self.is_complete = False
            else:
                merged = base if merged is None else lay_over(merged, base)
        top = Node(fields, root.place)
        return top if merged is None else lay_over(merged, top)

    def _names(self, includes: Node | None) -> list[tuple[str, Place]]:
        if includes is None:
            return []
        nodes = [includes] if includes.items is None else includes.items
        names: list[tuple[str, Place]] = []
        for node in nodes:
            if isinstance(node.value, str) and node.value:
                names.append((node.value, node.place))
            else:
                self._problem(node.place, "include", "name a file, or a list of files, relative to this one")
                self.is_complete = False
        return names

    def _text(self, path: Path, asked_by: Place, chain: tuple[Path, ...]) -> str | None:
        field = "include" if chain else ""
        self._count += 1
        if self._count > MAX_INCLUDES:
            self._problem(asked_by, field, f"more than {MAX_INCLUDES} files are included")
            return None
        try:
            if path.resolve() in chain:
                way = " -> ".join(str(step) for step in (*chain, path.resolve()))
                self._problem(asked_by, field, f"files include each other in a cycle: {way}")
                return None
            if not path.is_file():
                self._problem(asked_by, field, _missing(path))
                return None
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except (OSError, ValueError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            self._problem(asked_by, field, f"cannot read {str(path)!r}: {reason}; check its permissions")
            return None
        return self._decoded(raw, path)

    def _decoded(self, raw: bytes, path: Path) -> str | None:
        source = Source(str(path))
        if len(raw) > MAX_BYTES:
            self._problem(Place(source), "", f"larger than {MAX_BYTES // 1024} KiB; is this a config?")
            return None
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            before = raw[: error.start]
            line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
            message = f"not UTF-8 text: byte 0x{raw[error.start]:02x}; save the file as UTF-8"
            self._problem(Place(source, line, column), "", message)
            return None

    def _problem(self, place: Place, field: str, message: str) -> None:
        self._problems.append(Problem(place, field, message))


def _missing(path: Path) -> str:
    if path.is_dir():
        return f"{str(path)!r} is a directory, not a config file; name a file in it"
    if path.exists():
        return f"{str(path)!r} is not a regular file"
    try:
        siblings = [file.name for file in path.parent.iterdir() if file.suffix.lower() in SUFFIXES]
    except OSError:
        siblings = []
    return f"there is no file {str(path)!r}.{did_you_mean(path.name, siblings)}"


def _reader(format: str) -> Callable[[str, Source, list[Problem]], Node | None]:  # noqa: A002
    """Return what reads a text of one of the three formats; a process rarely needs more than YAML."""
    if format == "toml":
        from foundry_config.toml_reader import read_toml

        return read_toml
    if format == "json":
        from foundry_config.json_reader import read_json

        return read_json
    return read_yaml
