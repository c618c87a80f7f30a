"""Work that goes on beside the caller's own, where there is enough of it to be worth a thread."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

WORTH_A_THREAD = 2**20  # bytes to hash or read: a millisecond


def start_beside(work: Callable[[], T], *, size: int) -> Callable[[], T]:
    """Start `work` and return a function that waits for its result, or raises its error, as often as it is called.

    Args:
        work: Runs in a thread; below `WORTH_A_THREAD`, in the caller's at the first wait.
        size: How much it has to do. [bytes]
    """
    if size < WORTH_A_THREAD:
        return functools.cache(work)
    pool = ThreadPoolExecutor(1, thread_name_prefix=getattr(work, "__name__", "side-work"))
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future.result
