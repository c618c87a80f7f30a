"""Put a damaged checkpoint aside, with the reason, so that a person can look at it; nothing is ever deleted here."""

import json
import logging
import uuid
from pathlib import Path
from typing import NamedTuple

from foundry_data import fs
from foundry_train.checkpoint_names import QUARANTINE
from foundry_train.manifest import canonical_bytes

logger = logging.getLogger(__name__)

_UNKNOWN_REASON = "the reason is not known"


class PutAside(NamedTuple):
    """A checkpoint in quarantine."""

    name: str
    reason: str
    is_full: bool
    """Whether a run could have gone on from it."""


def quarantine(folder: Path, reason: str) -> Path:
    """Move a checkpoint into `.quarantine/` beside it and write `reason.json` into it; returns the new path.

    The move is one rename, so that a crash leaves the checkpoint whole, here or there.

    Raises:
        OSError: It could not be moved; a missing `reason.json` is only warned about.
    """
    shelf = folder.parent / QUARANTINE
    fs.make_directories(shelf)
    target = shelf / folder.name
    if target.exists() or target.is_symlink():
        target = shelf / f"{folder.name}-{uuid.uuid4().hex[:12]}"
    fs.backend().rename(folder, target)
    fs.backend().fsync_directory(shelf)
    fs.backend().fsync_directory(folder.parent)
    logger.warning("%s moved to %s: %s", folder.name, target.relative_to(folder.parent), reason)
    try:
        fs.write_atomic(target / "reason.json", canonical_bytes({"from": folder.name, "reason": reason}) + b"\n")
    except OSError as error:
        logger.warning("%s: the reason could not be written beside it: %s", target, error.strerror)
    return target


def quarantined(checkpoints: Path) -> list[PutAside]:
    """Return what lies in quarantine, with the reasons, by name."""
    shelf = checkpoints / QUARANTINE
    folders = sorted(path for path in shelf.iterdir() if path.is_dir()) if shelf.is_dir() else []
    return [PutAside(folder.name, _reason_of(folder), (folder / "trainer").exists()) for folder in folders]


def _reason_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / "reason.json").read_bytes())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return _UNKNOWN_REASON
