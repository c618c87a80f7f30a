"""What to do about a disk that refuses, in half a sentence to put behind the error.

cannot write runs/a: Not a directory (ENOTDIR); 'runs' is a file where a folder should be: move it away, or ...
"""

import errno
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


def disk_advice(error: OSError, path: Path) -> str:
    """Return what to do about `error` met while writing `path`, or an empty string where nothing general helps."""
    if is_full(error):
        return "free some space, or choose a folder on another volume"
    if error.errno in _FORBIDDEN:
        return "choose a folder that you may write to, or have its permissions changed"
    if error.errno in _IN_THE_WAY and (obstacle := _obstacle(path)) is not None:
        return f"{str(obstacle)!r} is a file where a folder should be: move it away, or choose another folder"
    return ""


def is_full(error: OSError) -> bool:
    """Whether the disk, or the share of it that this user may fill, has no room."""
    return error.errno in _FULL


def _obstacle(path: Path) -> Path | None:
    """Return the nearest thing above `path`, or `path` itself, that exists and is no folder."""
    for place in (path, *path.parents):
        if place.is_dir():
            return None
        if place.exists() or place.is_symlink():
            return place
    return None
