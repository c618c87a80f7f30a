"""The symlink `latest` of a run, for people and `from_pretrained("run/latest")`; no recovery ever reads it."""

import contextlib
import logging
import uuid
from pathlib import Path

from foundry_data import fs

logger = logging.getLogger(__name__)

LATEST = "latest"


def point_latest(run_dir: Path, checkpoint: Path) -> None:
    """Swap the link in one rename; a disk that refuses is a warning."""
    link, fresh = run_dir / LATEST, run_dir / f".latest-{uuid.uuid4().hex[:12]}"
    try:
        fs.backend().symlink(str(checkpoint.relative_to(run_dir)), fresh)
        fs.backend().rename(fresh, link)
    except OSError as error:
        logger.warning("%s still points to an older checkpoint: %s", link, error.strerror or error)
        with contextlib.suppress(OSError):
            fs.backend().unlink(fresh)


def is_latest_link(path: Path) -> bool:
    """Whether `path` is the link of a run to its newest checkpoint, which points elsewhere after the next save."""
    return path.name == LATEST and path.is_symlink() and path.resolve().parent == path.parent.resolve() / "checkpoints"
