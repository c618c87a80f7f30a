"""What holds for every test of the workspace: one thread a process, and no search for garbage among what stays.

Threads that wait for each other by spinning make a miniature model many times slower when the cores are shared, and two
threads gain nothing on it. Set before torch is imported; the processes that tests start inherit it.
"""

import atexit
import gc
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Collecting the tests makes half a million objects that live to the end. To look through all of them for cycles takes
# over half a second, which would befall some test every few hundred, and a third of the time of collecting.
gc.disable()
atexit.register(gc.unfreeze)  # some libraries count at the end of the interpreter what was never given back


def pytest_collection_finish() -> None:
    """Set aside what there is by now; garbage of the tests is collected as ever."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none; torch is imported for such tests only."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
