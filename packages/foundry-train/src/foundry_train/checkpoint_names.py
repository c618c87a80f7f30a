"""The names inside a `checkpoints/` folder, and what each of them means after a crash.

step-00001000           a finished checkpoint; nothing else is one
.tmp-00001000-<id>      being written: removed at the next start
.trash-00000900-<id>    being removed: removed at the next start
.old-00001000-<id>      replaced by a better one of the same step: put back if that one is not there
.quarantine/            damaged or set aside; never removed by us
"""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

QUARANTINE = ".quarantine"
_STEP = re.compile(r"step-(\d{8,12})")
_TRANSIENT = re.compile(r"\.(tmp|trash|old)-(\d{8,12})-[0-9a-f]{12}")


def step_path(checkpoints: Path, step: int) -> Path:
    """Folder of the checkpoint of `step`."""
    return checkpoints / f"step-{step:08d}"


def fresh_path(checkpoints: Path, purpose: str, step: int) -> Path:
    """A name never used before for `tmp`, `trash` or `old`."""
    return checkpoints / f".{purpose}-{step:08d}-{uuid.uuid4().hex[:12]}"


def step_folders(checkpoints: Path) -> list[tuple[int, Path]]:
    """Step and path of every `step-*` folder, by step; no symlinks, and none if `checkpoints` does not exist."""
    if not checkpoints.is_dir():
        return []
    found: list[tuple[int, Path]] = []
    for path in checkpoints.iterdir():
        match = _STEP.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            found.append((int(match.group(1)), path))
    return sorted(found)


def transient_folders(checkpoints: Path) -> Iterator[tuple[str, int, Path]]:
    """Purpose, step and path of every folder that a crash left behind, in order of name."""
    if not checkpoints.is_dir():
        return
    for path in sorted(checkpoints.iterdir()):
        match = _TRANSIENT.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            yield match.group(1), int(match.group(2)), path
