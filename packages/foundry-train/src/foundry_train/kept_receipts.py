"""Copy into a run what `dataset_manipulation` did to its text: it then tells of it without its prepared data."""

import logging
from collections.abc import Sequence
from pathlib import Path

from foundry_data import fs

logger = logging.getLogger(__name__)

RECEIPTS = "receipts"


def keep_receipts(run: Path, receipts: Sequence[Path]) -> None:
    """Copy receipts into the folder `receipts` of a run; a disk that refuses is a warning.

    Args:
        run: The run directory.
        receipts: Their files, in a folder `receipts` or one below it.
    """
    for path in receipts:
        below = len(path.parts) - path.parts[::-1].index(RECEIPTS)
        place = run / RECEIPTS / Path(*path.parts[below:])
        try:
            data = path.read_bytes()
            if not place.is_file() or place.read_bytes() != data:
                fs.make_directories(place.parent)
                fs.write_atomic(place, data)
        except OSError as error:
            logger.warning("%s could not be written: %s", place, error.strerror or error)
