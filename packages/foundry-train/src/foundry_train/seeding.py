"""Seeds and determinism: the same config twice gives the same bits on the same machine."""

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch

from foundry_config import TrainingConfig


def set_seed(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch (every device).

    Args:
        seed: Any non-negative integer; NumPy, which takes 32 bits, gets it modulo 2**32.
        deterministic: Also allow only deterministic algorithms (see `use_deterministic_algorithms`).
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        use_deterministic_algorithms()


def wants_determinism(training: TrainingConfig, device: torch.device) -> bool:
    """Whether a run needs deterministic algorithms: it asks for them, or is compiled for a CPU.

    A compiled program for a CPU adds up the gradient of the embeddings in whatever order its threads come, so that no
    resumed run would have the same bits; deterministic algorithms leave that to PyTorch's own kernel.
    """
    return training.deterministic or (device.type == "cpu" and training.compile == "on")


def use_deterministic_algorithms() -> None:
    """Make torch refuse every operation that has no deterministic form.

    cuBLAS reads its variable when it starts, so this must run before the first operation on CUDA.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"  # read by transformers; the next line does not reach it
    torch.use_deterministic_algorithms(True)
    # for finding bugs; it would write all memory twice
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def undisturbed_generators(device: torch.device) -> Iterator[None]:
    """Run a block that may draw random numbers, then put torch's generators back as they were.

    >>> before = torch.get_rng_state()
    >>> with undisturbed_generators(torch.device("cpu")):
    ...     _ = torch.rand(3)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
    with torch.random.fork_rng(devices=[index] if device.type == "cuda" else []):
        yield
