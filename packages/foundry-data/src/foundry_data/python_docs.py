"""`builtin:python-docs`: about 2 MB of English prose that every Python installation carries.

    pydoc_data/topics.py      the reference texts behind `help("if")`            one document each
    <standard library>/*.py   docstrings of modules, classes and functions      one document each

The same Python version gives the same documents in the same order. Tests, installed packages and docstrings of less
than `MIN_WORDS` words are left out. Files are found by name and parsed with `ast`; nothing is imported or run.
"""

import ast
import functools
import gc
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from foundry_config.errors import DataError
from foundry_data.documents import DocumentBlock, ReadReport, ReadSettings, is_unicode
from foundry_data.fingerprint import fingerprint
from foundry_data.fs import sha256_file
from foundry_data.intake import Intake
from foundry_data.sources import SourceFile, SourcePart
from foundry_data.words import count_words

NAME = "builtin:python-docs"
TOPICS = "pydoc_data/topics.py"
MIN_WORDS = 8
PART_FILES = 32
LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"}
    | {"_bundled", "encodings", "pydoc_data", "__pycache__"}
)

_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # the fields of a node that hold statements, as written
_Container = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class PythonDocsFile(SourceFile, frozen=True):
    """The corpus seen as one file."""

    def digest(self) -> str:
        """SHA-256 over the names and bytes of the source files that are read, as 64 hexadecimal digits.

        Raises:
            DataError: The standard library has no source files.
        """
        library = Path(self.path)
        listed = [[name, sha256_file(library / name)] for name in library_files(library)]
        return fingerprint([MIN_WORDS, listed]).removeprefix("sha256:")


def python_docs_file() -> SourceFile:
    """Return the corpus of the running interpreter."""
    return PythonDocsFile(path=sysconfig.get_path("stdlib"), name=NAME, suffix=NAME)


@functools.cache
def library_files(library: Path) -> tuple[str, ...]:
    """Return the source files to read, as paths below `library`, topics first.

    Raises:
        DataError: The standard library has no source files, as in some stripped-down installations.
    """
    names: list[str] = []
    for folder, folders, files in os.walk(library):
        folders[:] = sorted(set(folders) - LEFT_OUT)
        below = Path(folder).relative_to(library)
        names += [(below / name).as_posix() for name in files if name.endswith(".py")]
    if not names or not (library / TOPICS).is_file():
        raise DataError(
            f"{NAME} needs the sources of Python's standard library, which {str(library)!r} lacks; "
            "use a full Python installation, or name a corpus of your own in data.source_corpus"
        )
    return (TOPICS, *sorted(names, key=lambda name: name.split("/")))


def read_python_docs(part: SourcePart, settings: ReadSettings, report: ReadReport) -> Iterator[DocumentBlock]:
    """Yield the documents of the source files from `part.start` to `part.stop`, a block for each file.

    Raises:
        DataError: The standard library has no source files.
    """
    library = Path(part.file.path)
    for name in library_files(library)[part.start : part.stop]:
        source = (library / name).read_bytes()
        numbered = _topics(source) if name == TOPICS else docstrings(source)
        kept = [(line, text) for line, text in numbered if count_words(text) >= MIN_WORDS]
        if kept:
            intake = Intake(f"python-docs/{name}", settings, report)
            intake.count("".join(text for _, text in kept).encode())
            yield intake.block([line for line, _ in kept], [text for _, text in kept])


def split_python_docs(file: SourceFile, _settings: ReadSettings, _part_bytes: int) -> list[SourcePart]:
    """Cut the corpus into parts of some modules each.

    Raises:
        DataError: The standard library has no source files.
    """
    count = len(library_files(Path(file.path)))
    return [SourcePart(file, start, min(start + PART_FILES, count)) for start in range(0, count, PART_FILES)]


def docstrings(source: bytes) -> list[tuple[int, str]]:
    """Return (line, text) of every docstring of a module, in the order of the source; none if it does not parse.

    >>> docstrings(b'def f():\\n    "Add one."')
    [(2, 'Add one.')]
    """
    if b'"' not in source and b"'" not in source:
        return []
    try:
        tree = _parse(source)
    except (SyntaxError, ValueError):  # templates that only look like Python
        return []
    return [(line, text) for line, text in _docstrings_below(tree) if is_unicode(text)]


def _parse(source: bytes) -> ast.Module:
    """Parse without warnings about old escapes, and without the garbage collector, a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    finally:
        if was_enabled:
            gc.enable()


def _docstrings_below(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Walk the statements only: expressions, which are most of a tree, hold no docstring."""
    if isinstance(node, _Container):
        text = ast.get_docstring(node)
        if text:
            yield node.body[0].lineno, text
    for block in _BLOCKS:
        for child in getattr(node, block, ()):
            if not isinstance(child, ast.Expr):
                yield from _docstrings_below(child)


def _topics(source: bytes) -> list[tuple[int, str]]:
    """Return (line, text) of the entries of the dictionary `topics`."""
    dictionaries = (node for node in ast.walk(_parse(source)) if isinstance(node, ast.Dict))
    return [
        (value.lineno, value.value.strip())
        for value in (value for node in dictionaries for value in node.values)
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]
