"""Name a set of inputs by its content, so that a finished stage is reused exactly when nothing it depends on changed.

    >>> fingerprint({"vocab_size": 8000, "kind": "bpe"}) == fingerprint({"kind": "bpe", "vocab_size": 8000})
    True
    >>> fingerprint({"vocab_size": 8000})[:14]
    'sha256:2994971'

Paths, times and host names never take part: a corpus that was moved is the same corpus.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from foundry_data.fs import sha256_file

PREFIX = "sha256:"


class Digestible(Protocol):
    """Something whose bytes have a SHA-256, such as a `SourceFile`."""

    @property
    def format(self) -> str:
        """How the bytes are to be read."""
        ...

    def digest(self) -> str:
        """SHA-256 of the bytes, as 64 hexadecimal digits."""
        ...


def fingerprint(value: Any) -> str:
    """Return `"sha256:<64 hexadecimal digits>"` of anything that JSON can say; the order of keys does not matter.

    Raises:
        TypeError: A part of `value` has no JSON form.
    """
    return PREFIX + hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def source_fingerprint(files: Iterable[Digestible]) -> str:
    """Fingerprint a corpus: the content and format of its files, in reading order, wherever they lie.

    Files are hashed by several threads, at the speed of the disk.
    """
    listed = list(files)
    return fingerprint([[file.format, digest] for file, digest in zip(listed, digests_of(listed), strict=True)])


def digests_of(files: Iterable[Digestible]) -> list[str]:
    """Return the SHA-256 of every file, read by several threads."""
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="digest") as pool:
        return list(pool.map(_digest, files))


def code_fingerprint(code: Callable[..., Any] | type) -> str:
    """Fingerprint a function or class by the whole source file that defines it, helpers included.

    Code without a source file (typed into an interpreter) is named by its own source, or else by its qualified name.
    """
    module = sys.modules.get(code.__module__)
    path = getattr(module, "__file__", None)
    if path is not None and Path(path).is_file():
        return PREFIX + sha256_file(Path(path))
    try:
        return fingerprint(inspect.getsource(code))
    except (OSError, TypeError):
        return fingerprint(f"{code.__module__}:{code.__qualname__}")


def _digest(file: Digestible) -> str:
    return file.digest()
