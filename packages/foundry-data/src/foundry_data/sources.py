"""Find the files of a corpus, in an order that every machine agrees on.

    corpus/            find_files("corpus", ...)
    ├─ b/1.jsonl.gz    -> b/1.jsonl.gz, b/2.txt, z.txt        sorted by the parts of the path, byte for byte
    ├─ b/2.txt            report: 1 file ignored (.pdf 1)
    ├─ b/scan.pdf
    └─ z.txt

A source is a file, a folder (read to its depth, symbolic links followed once), a glob, or a dataset saved by
`datasets`. Nothing is opened here except the small index files of saved datasets.
"""

import functools
import glob
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

import msgspec

from foundry_config.errors import DataError, MissingCorpusError
from foundry_config.lookup import did_you_mean
from foundry_data.documents import ReadReport, escaped
from foundry_data.fs import sha256_file

COMPRESSIONS = (".gz", ".zst")
ARROW_SUFFIX = ".arrow"


class SourceFile(msgspec.Struct, frozen=True):
    """One file of a corpus, as it was when it was found. Plain data: it can be sent to another process."""

    path: str
    name: str
    """Path below the source, with forward slashes."""
    suffix: str
    """Key of `READERS`: the format."""
    compression: str = ""
    """`.gz`, `.zst` or nothing."""
    size: int = 0
    modified_ns: int = 0
    inode: int = 0
    changed_ns: int = 0
    """When the inode changed last (`st_ctime`), which nobody can set back as `touch` and `cp -p` do with the others."""

    @property
    def format(self) -> str:
        """How its bytes are to be read: the suffix, and the compression where there is one."""
        return self.suffix + self.compression

    @property
    def label(self) -> str:
        """The name, safe to print."""
        return escaped(self.name)

    def digest(self) -> str:
        """SHA-256 of the bytes on disk (64 hexadecimal digits); computed once per process while the file is the same.

        Raises:
            DataError: The file cannot be read, or is not the one that was found.
        """
        return _digest(self)


class SourcePart(msgspec.Struct, frozen=True):
    """Some consecutive documents of a file: a unit of work for one process."""

    file: SourceFile
    start: int = 0
    """First byte (text) or row group (columns) or module (built-in)."""
    stop: int | None = None
    """End, not included; nothing means the end of the file."""
    first_record: int = 1
    """Line of the file on which the part begins, counted from 1."""


MOST_OF_A_RUN = 2**14  # bytes of its run.json, a few hundred, that are looked at


def find_files(
    source: str | Path, *, suffixes: Collection[str], exclude: Sequence[Path] = (), report: ReadReport
) -> list[SourceFile]:
    """List the readable files of `source`, sorted by the parts of their names; count the others in `report`.

    Args:
        source: A file, a folder, a glob or a saved dataset.
        suffixes: The formats that a reader exists for, each with its dot.
        exclude: Files and folders to leave out, such as the prepared data when it lies below the source; one that the
            source itself lies in is not. Folders of runs below the source are left out in any case.
        report: Receives `ignored_files`.

    Raises:
        MissingCorpusError: Nothing there, or a glob that matches nothing.
        DataError: Nothing readable, or no permission; names the path and what to do.
    """
    if "\0" in str(source):
        raise DataError(f"{str(source)!r} is not a path: it contains a NUL character")
    here = Path(source).resolve()
    excluded = {path.resolve() for path in exclude if not here.is_relative_to(path.resolve())}
    base, paths = _candidates(Path(source), excluded)
    found: list[SourceFile] = []
    ignored: Counter[str] = Counter()
    for path in paths:
        if excluded and not excluded.isdisjoint([path.resolve(), *path.resolve().parents]):
            continue
        if os.path.isdir(path):  # noqa: PTH112 (as below)
            ignored["run folder"] += 1
            continue
        if not os.path.exists(path):  # noqa: PTH110 (False, not an error, where a link cannot be followed)
            ignored["link to nothing"] += 1
            continue
        file = describe_file(path, name=_relative_name(path, base), suffixes=suffixes)
        if file is None:
            ignored[_why_ignored(path)] += 1
        else:
            found.append(file)
    report.ignored_files = dict(sorted(ignored.items()))
    if not found:
        is_there = os.path.lexists(source) or report.ignored_files
        raise (DataError if is_there else MissingCorpusError)(_nothing_readable(source, report, suffixes))
    return found


def _why_ignored(path: Path) -> str:
    """Return the suffix of a file, or what it is if it is none."""
    mode = _status(path).st_mode
    return (path.suffix.lower() or "no suffix") if stat.S_ISREG(mode) else _kind(mode)


def describe_file(path: Path, *, name: str, suffixes: Collection[str]) -> SourceFile | None:
    """Return what is known of a regular file from its name and `stat`, or None if no reader knows its suffix.

    Raises:
        DataError: The file vanished or may not be looked at.
    """
    suffix, compression = split_suffix(path.name)
    status = _status(path)
    if suffix not in suffixes or not stat.S_ISREG(status.st_mode):
        return None
    return SourceFile(
        str(path), name, suffix, compression, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns
    )


def split_suffix(name: str) -> tuple[str, str]:
    """Return (format, compression) from a file name.

    >>> split_suffix("Part-1.JSONL.gz"), split_suffix("notes.txt")
    (('.jsonl', '.gz'), ('.txt', ''))
    """
    path = PurePath(name.lower())
    if path.suffix in COMPRESSIONS:
        return PurePath(path.stem).suffix, path.suffix
    return path.suffix, ""


def check_unchanged(file: SourceFile) -> None:
    """Compare size, time and inode with those noted when `file` was found.

    Raises:
        DataError: The file was changed, replaced or removed since.
    """
    status = _status(Path(file.path))
    if (status.st_size, status.st_mtime_ns, status.st_ino) != (file.size, file.modified_ns, file.inode):
        raise DataError(
            f"{file.label} changed while it was read ({file.size:,} bytes before, {status.st_size:,} now); "
            "wait until nothing writes to the corpus, then run again"
        )


def _candidates(source: Path, excluded: set[Path]) -> tuple[Path, Iterable[Path]]:
    """Return the folder that names are relative to, and every file below the source."""
    shown = repr(str(source))
    if os.path.lexists(source):
        mode = _status(source).st_mode
        if stat.S_ISDIR(mode):
            return source, _walk(source, excluded)
        if stat.S_ISREG(mode):
            return source.parent, [source]
        raise DataError(f"{shown} is {_kind(mode)}, not a regular file; copy its content to a file and name that")
    if glob.has_magic(str(source)):
        return _fixed_parent(source), _matches(source, excluded)
    raise MissingCorpusError(
        f"there is no {shown}.{_hint(source)} Name a file, a folder, a glob, or 'builtin:python-docs'"
    )


def _matches(pattern: Path, excluded: set[Path]) -> list[Path]:
    """Return the files that a glob matches, or that lie below a folder that it matches, each reached once."""
    found = [Path(match) for match in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207
    below = [file for path in found for file in (_walk(path, excluded) if path.is_dir() else [path])]
    once: dict[tuple[str, str], Path] = {}
    for path in sorted(below, key=lambda path: (len(path.parts), path.parts)):  # the shortest way, if links form a loop
        once.setdefault((os.path.realpath(path.parent), path.name), path)
    return sorted(once.values(), key=_by_parts)


def _walk(folder: Path, excluded: set[Path]) -> Iterator[Path]:
    """Yield every file below `folder`, hidden ones left out, each folder once even if links form a loop."""
    yield from sorted(_files_below(folder, left_out=set(excluded)), key=_by_parts)


def _files_below(folder: Path, *, left_out: set[Path]) -> Iterator[Path]:
    """Yield the files below `folder`; of the folder of a run only itself."""
    if folder.resolve() in left_out:
        return
    left_out.add(folder.resolve())
    if _is_run(folder):
        yield folder
        return
    saved = _saved_dataset(folder)
    if saved is not None:
        yield from saved
        return
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if os.path.isdir(path):  # unlike `entry.is_dir`, no error where a link cannot be followed # noqa: PTH112
            yield from _files_below(path, left_out=left_out)
        else:
            yield path


def _is_run(folder: Path) -> bool:
    """Whether `foundry train` has made the folder: its records are JSON, and no corpus."""
    try:
        with (folder / "run.json").open("rb") as file:
            return b'"format":"foundry.run/' in file.read(MOST_OF_A_RUN)
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot list {str(folder)!r}: {error.strerror}; check its permissions") from error


def _saved_dataset(folder: Path) -> list[Path] | None:
    """Return the Arrow files of a dataset written by `Dataset.save_to_disk`, or None for an ordinary folder."""
    if os.path.isfile(folder / "dataset_dict.json"):  # False, not an error, without permission # noqa: PTH113
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise DataError(
            f"{str(folder)!r} holds several splits of a dataset; name one of them, as in {str(folder / splits[0])!r}"
            if splits
            else f"{str(folder)!r} is a saved dataset without any split; save it again"
        )
    index = folder / "state.json"
    if not (os.path.isfile(index) and os.path.isfile(folder / "dataset_info.json")):  # noqa: PTH113
        return None
    try:
        state = msgspec.json.decode(index.read_bytes(), type=_DatasetState)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{str(index)!r} is damaged: {error}; save the dataset again") from error
    names = [entry.filename for entry in state.data_files]
    if any(PurePath(name).name != name for name in names):
        raise DataError(f"{str(index)!r} names files outside its folder; save the dataset again")
    return [folder / name for name in names]


class _DataFile(msgspec.Struct):
    filename: str


class _DatasetState(msgspec.Struct, rename={"data_files": "_data_files"}):
    data_files: list[_DataFile]


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}; check the path and its permissions") from error


def _by_parts(path: str | Path) -> tuple[str, ...]:
    return PurePath(path).parts


def _relative_name(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


def _fixed_parent(pattern: Path) -> Path:
    """Return the longest leading folder of a glob that has no wildcard in it."""
    fixed = pattern
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "a special file")


def _hint(missing: Path) -> str:
    try:
        siblings = [path.name for path in missing.parent.iterdir()]
    except OSError:
        return ""
    return did_you_mean(missing.name, siblings)


def _nothing_readable(source: str | Path, report: ReadReport, suffixes: Collection[str]) -> str:
    ignored = f" ({report.ignored_summary()} ignored)" if report.ignored_files else ""
    known = ", ".join(suffixes)
    return (
        f"no readable text in {str(source)!r}{ignored}; files of these kinds are read: {known}, "
        f"the text ones also with {' or '.join(COMPRESSIONS)} after it"
    )


@functools.lru_cache(maxsize=65536)
def _digest(file: SourceFile) -> str:
    try:
        digest = sha256_file(Path(file.path))
    except OSError as error:
        raise DataError(f"cannot read {file.label}: {error.strerror}; check its permissions") from error
    check_unchanged(file)
    return digest
