"""What a power cut can leave on a disk, worked out from a trace of the operations that were really made.

The model is pessimistic POSIX. The data of a file are safe after its fsync; before, the file may be empty, cut, full of
zeros (the space was reserved) or whole. A name is safe after the fsync of its folder; before, any subset of the pending
creations, renames and removals may have reached the disk. A rename is atomic.

    for state in power_cuts(trace.operations, folder):
        state.files          # path below `folder` -> content, as they would be found
        state.committed      # highest step whose save had returned

Checkpoints do not depend on each other, and neither does what recovery thinks of them. So the pending operations are
grouped by checkpoint, every subset within a group is tried, and the other groups are tried with all and with none.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from foundry_data.fs_faults import Operation

MARK = "mark"  # an operation added by the test: the save of step `path` has returned


class State(NamedTuple):
    """A disk after a power cut."""

    files: dict[str, bytes]
    folders: frozenset[str]
    committed: int
    after: int
    """Operations made before the cut."""


class _Entry(NamedTuple):
    """A change of names in one folder: `child` appears under `name` and disappears from `old_name`."""

    parent: int
    name: str | None
    old_name: str | None
    child: int
    group: int
    """The checkpoint folder it belongs to."""


class _Disk:
    """Everything that was asked of the disk up to some moment."""

    def __init__(self, folder: Path) -> None:
        self.root = PurePosixPath(folder)
        self.inodes: dict[str, int] = {"": 0}
        self.kinds: dict[int, str] = {0: "folder"}
        self.groups: dict[int, int] = {0: 0}
        self.data: dict[int, bytes] = {}
        self.reserved: set[int] = set()
        self.unsynced: set[int] = set()
        self.entries: list[_Entry] = []
        self.durable: set[int] = set()
        self.committed = -1

    def apply(self, operation: Operation) -> None:
        if operation.name == MARK:
            self.committed = max(self.committed, int(operation.path))
            return
        path = self._relative(operation.path)
        if path is None:
            return
        handler = getattr(self, f"_{operation.name}", None)
        if handler is not None:
            handler(path, operation)

    def _relative(self, path: str) -> str | None:
        pure = PurePosixPath(path)
        if pure != self.root and self.root not in pure.parents:
            return None
        relative = str(pure.relative_to(self.root))
        return "" if relative == "." else relative

    def _new(self, path: str, kind: str) -> None:
        inode = len(self.kinds)
        parent = self.inodes[_parent(path)]
        self.kinds[inode] = kind
        self.groups[inode] = self.groups[parent] or inode
        self.inodes[path] = inode
        self.entries.append(_Entry(parent, _name(path), None, inode, self.groups[inode]))

    def _mkdir(self, path: str, operation: Operation) -> None:
        self._new(path, "folder")

    def _open_new(self, path: str, operation: Operation) -> None:
        self._new(path, "file")
        self.data[self.inodes[path]] = b""

    def _allocate(self, path: str, operation: Operation) -> None:
        self.reserved.add(self.inodes[path])

    def _write(self, path: str, operation: Operation) -> None:
        inode = self.inodes[path]
        self.data[inode] += operation.data
        self.unsynced.add(inode)

    def _fsync(self, path: str, operation: Operation) -> None:
        self.unsynced.discard(self.inodes[path])

    def _fsync_directory(self, path: str, operation: Operation) -> None:
        inode = self.inodes[path]
        self.durable |= {index for index, entry in enumerate(self.entries) if entry.parent == inode}

    def _rename(self, path: str, operation: Operation) -> None:
        target = self._relative(operation.target)
        assert target is not None
        inode = self.inodes[path]
        replaced = self.inodes.get(target)
        moved = {old: i for old, i in self.inodes.items() if old == path or old.startswith(path + "/")}
        for old, moving in moved.items():
            del self.inodes[old]
            self.inodes[target + old[len(path) :]] = moving
        assert replaced is None or self.kinds[replaced] == "file"
        parent = self.inodes[_parent(target)]
        self.entries.append(_Entry(parent, _name(target), _name(path), inode, self.groups[inode]))

    def _unlink(self, path: str, operation: Operation) -> None:
        inode = self.inodes.pop(path)
        self.entries.append(_Entry(self.inodes[_parent(path)], None, _name(path), inode, self.groups[inode]))

    _rmdir = _unlink


def power_cuts(operations: Sequence[Operation], folder: Path) -> Iterator[State]:
    """Yield the states that a power cut can leave below `folder`, at every moment; some of them more than once."""
    disk = _Disk(folder)
    for count, operation in enumerate(operations, 1):
        disk.apply(operation)
        yield from _states(disk, count)


def _states(disk: _Disk, count: int) -> Iterator[State]:
    pending = [index for index in range(len(disk.entries)) if index not in disk.durable]
    groups: dict[int, list[int]] = {}
    for index in pending:
        groups.setdefault(disk.entries[index].group, []).append(index)
    unsynced = sorted(disk.unsynced)
    for group, others in itertools.product(groups or [0], (True, False)):
        base = disk.durable | ({i for i in pending if disk.entries[i].group != group} if others else set())
        own = groups.get(group, [])
        for chosen in itertools.product((True, False), repeat=len(own)):
            kept = base | {index for index, keep in zip(own, chosen, strict=True) if keep}
            tree = _tree(disk, kept)
            visible = [inode for inode in unsynced if inode in tree.values()]
            for contents in itertools.product(*[_variants(disk, inode) for inode in visible]):
                data = disk.data | dict(zip(visible, contents, strict=True))
                files = {path: data[inode] for path, inode in tree.items() if disk.kinds[inode] == "file"}
                folders = frozenset(path for path, inode in tree.items() if disk.kinds[inode] == "folder")
                yield State(files, folders, disk.committed, count)


def _tree(disk: _Disk, kept: set[int]) -> dict[str, int]:
    """Path -> inode, after the kept changes of names in their order."""
    names: dict[int, dict[str, int]] = {}
    for index in sorted(kept):
        entry = disk.entries[index]
        here = names.setdefault(entry.parent, {})
        if entry.old_name is not None and here.get(entry.old_name) == entry.child:
            del here[entry.old_name]
        if entry.name is not None:
            here[entry.name] = entry.child
    tree: dict[str, int] = {}

    def walk(inode: int, prefix: str) -> None:
        for name, child in names.get(inode, {}).items():
            tree[prefix + name] = child
            if disk.kinds[child] == "folder":
                walk(child, f"{prefix}{name}/")

    walk(0, "")
    return tree


def _variants(disk: _Disk, inode: int) -> list[bytes]:
    whole = disk.data[inode]
    found = [b"", whole[: len(whole) // 2], whole]
    return [bytes(len(whole)), *found] if inode in disk.reserved else found


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]
