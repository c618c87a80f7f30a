"""What checkpoints a folder holds, and whether each of them is what its manifest says.

`list_checkpoints` is instant: it reads the manifests and compares the sizes of the files. `file_problems` reads and
hashes every byte.
"""

import functools
import hashlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from foundry_train.checkpoint_names import step_folders
from foundry_train.manifest import Manifest, ManifestError, NewerFormatError, read_manifest
from foundry_train.side_work import start_beside


class CheckpointInfo(NamedTuple):
    """One `step-*` folder."""

    path: Path
    step: int
    manifest: Manifest | None
    """None where it cannot be read."""
    problem: str | None
    """Why it cannot be used, as far as manifest and file sizes tell; None if nothing is wrong."""
    newer_format: bool = False
    """Written by a later version of the software: not damaged, but not readable here."""

    @property
    def kind(self) -> str:
        """`full`, `weights`, or `unknown`."""
        return self.manifest.kind if self.manifest else "unknown"

    @property
    def label(self) -> str | None:
        """Name of the milestone, such as `chck_10M`."""
        return self.manifest.label if self.manifest else None

    @property
    def milestone(self) -> bool:
        """Whether the schedule asked for it, so that it is never removed."""
        return self.manifest.milestone if self.manifest else False

    @property
    def bytes(self) -> int:
        """Size of its files, by the manifest."""
        return sum(entry.bytes for entry in self.manifest.files.values()) if self.manifest else 0


def list_checkpoints(checkpoints: Path) -> list[CheckpointInfo]:
    """Describe every checkpoint of a folder by its manifest and file sizes, in order of step; damaged ones too.

    One that a trainer removes meanwhile is left out.
    """
    infos = [describe(path, step) for step, path in step_folders(checkpoints)]
    there = [info for info in infos if info.problem is None or info.path.is_dir()]
    return there if there or not infos else list_checkpoints(checkpoints)  # newer ones took the place of all


def describe(path: Path, step: int) -> CheckpointInfo:
    """Read the manifest of one folder and compare the sizes of its files."""
    try:
        manifest = read_manifest(path)
    except NewerFormatError as error:
        return CheckpointInfo(path, step, None, str(error), newer_format=True)
    except (ManifestError, OSError) as error:
        return CheckpointInfo(path, step, None, str(error))
    problem = size_problem(path, manifest)
    if manifest.step != step:
        problem = f"it says that it is step {manifest.step}, its folder says {step}"
    return CheckpointInfo(path, step, manifest, problem)


def size_problem(folder: Path, manifest: Manifest) -> str | None:
    """Name the first file that is missing, of another size, or no regular file."""
    for name, entry in manifest.files.items():
        problem = _size_problem(folder, name, entry.bytes)
        if problem:
            return problem
    return None


def file_problems(folder: Path, manifest: Manifest, *, names: Iterable[str] | None = None) -> list[str]:
    """Hash files that the manifest lists (`names`, or all); return a sentence for each that is not as it should be."""

    def check(name: str) -> str | None:
        entry = manifest.files[name]
        problem = _size_problem(folder, name, entry.bytes)
        if problem:
            return problem
        try:
            with (folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        return None if digest == entry.sha256 else f"{name} is damaged: its SHA-256 is not the one in the manifest"

    chosen = sorted(manifest.files if names is None else names)
    results = [start_beside(functools.partial(check, name), size=manifest.files[name].bytes) for name in chosen]
    return [problem for result in results if (problem := result())]


def _size_problem(folder: Path, name: str, size: int) -> str | None:
    path = folder / name
    for parent in [path, *path.parents[: len(Path(name).parts) - 1]]:
        if parent.is_symlink():
            return f"{parent.relative_to(folder)} is a symlink"
    try:
        status = path.stat()
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return f"{name} is not a regular file"
    return None if status.st_size == size else f"{name} has {status.st_size:,} bytes, expected {size:,}"
