"""Which of several processes of one training this is, as torchrun tells it; all of them share one terminal."""

import os


def is_first_rank() -> bool:
    """Tell whether this process is the one that speaks for all."""
    return rank() == "0"


def is_alone() -> bool:
    """Tell whether there is but one process."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def rank() -> str:
    """Return the rank, `0` where there is but one process."""
    return os.environ.get("RANK", "0")
