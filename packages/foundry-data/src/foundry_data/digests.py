"""Remember the SHA-256 of files, so that preparing again does not read gigabytes to find that nothing changed.

    prepared/digests.json     {"corpus/a.txt": {"size": 812, "modified_ns": ..., "sha256": "9f86...", ...}}

An entry counts only while size, inode and both times of the file are the same (the time of the last change of the inode
betrays a file whose modification time was set back), and only if the file was already at rest for two seconds when it
was hashed: a change right after hashing could leave no trace in its times.
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from foundry_config.errors import DataError
from foundry_data import fs
from foundry_data.fingerprint import digests_of, source_fingerprint
from foundry_data.sources import SourceFile, describe_file, split_suffix

AT_REST_NS = 2_000_000_000


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    modified_ns: int
    inode: int
    sha256: str
    changed_ns: int = 0

    def fits(self, file: SourceFile) -> bool:
        ours = (self.size, self.modified_ns, self.inode, self.changed_ns)
        return ours == (file.size, file.modified_ns, file.inode, file.changed_ns)


class _Known(msgspec.Struct, frozen=True):
    """A file whose digest need not be computed."""

    format: str
    sha256: str

    def digest(self) -> str:
        return self.sha256


class DigestCache:
    """Digests of files, kept in one JSON file; without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def fingerprint(self, files: Sequence[SourceFile]) -> str:
        """Return `source_fingerprint(files)`. Reads and raises as `digests` does."""
        return source_fingerprint([_Known(file.format, digest) for file, digest in zip(files, self.digests(files))])

    def sha256(self, paths: Sequence[Path]) -> list[str]:
        """Return the SHA-256 of regular files of any name. Reads and raises as `digests` does.

        Raises:
            DataError: Something is no regular file.
        """
        return self.digests([_described(path) for path in paths])

    def digests(self, files: Sequence[SourceFile]) -> list[str]:
        """Return the SHA-256 of every file, reading only those that are new or changed.

        Raises:
            DataError: A file cannot be read or changes while it is read.
        """
        entries = self._read()
        known = [self._known(file, entries.get(_key(file))) for file in files]
        result = digests_of(known)
        # `SourceFile.digest` is computed once per process, so that asking again costs nothing.
        fresh = {_key(file): self._entry(file) for file, now in zip(files, known, strict=True) if now is file}
        self._write(entries | {path: entry for path, entry in fresh.items() if entry is not None})
        return result

    def _known(self, file: SourceFile, entry: _Entry | None) -> SourceFile | _Known:
        return _Known(file.format, entry.sha256) if entry is not None and entry.fits(file) else file

    def _entry(self, file: SourceFile) -> _Entry | None:
        if not file.inode or time.time_ns() - max(file.modified_ns, file.changed_ns) < AT_REST_NS:
            return None
        return _Entry(file.size, file.modified_ns, file.inode, file.digest(), file.changed_ns)

    def _read(self) -> dict[str, _Entry]:
        if self._path is None or not self._path.is_file():
            return {}
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Entry])
        except (OSError, msgspec.DecodeError):
            return {}  # a cache that cannot be read is no cache

    def _write(self, entries: dict[str, _Entry]) -> None:
        if self._path is None or entries == self._read():
            return
        with contextlib.suppress(OSError):  # read-only or full: the files are hashed again next time
            fs.make_directories(self._path.parent)
            fs.write_atomic(self._path, msgspec.json.encode(entries))


def _described(path: Path) -> SourceFile:
    file = describe_file(path, name=str(path), suffixes={split_suffix(path.name)[0]})
    if file is None:
        raise DataError(f"{path} is no regular file, so it cannot be compared with what it was; remove it")
    return file


def _key(file: SourceFile) -> str:
    """Return the path as JSON can hold it; a name that is no UTF-8 reaches Python with lone surrogates in it."""
    return file.path.encode("utf-8", "backslashreplace").decode()
