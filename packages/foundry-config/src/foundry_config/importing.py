"""Large libraries are imported faster without the garbage collector."""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Generator[None]:
    """Hold the garbage collector off: imports make millions of lasting objects, and scanning them costs a tenth.

    >>> with uncollected():
    ...     import decimal
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
