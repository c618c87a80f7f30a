"""Seeds and determinism: the same config twice gives the same bits on the same machine."""

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch

from foundry_config import TrainingConfig

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
FLASH_VARIABLE = "FLASH_ATTENTION_DETERMINISTIC"  # read by transformers; torch's own switch does not reach that kernel
DETERMINISTIC_VARIABLES = (CUBLAS_VARIABLE, FLASH_VARIABLE)


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
    os.environ.setdefault(CUBLAS_VARIABLE, ":4096:8")
    os.environ[FLASH_VARIABLE] = "1"
    torch.use_deterministic_algorithms(True)
    # for finding bugs; it would write all memory twice
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def kept_settings() -> Iterator[None]:
    """Put threads, determinism and the precision of products back after a block, for whatever this process does next.

    >>> threads = torch.get_num_threads()
    >>> with kept_settings():
    ...     torch.set_num_threads(threads + 1), use_deterministic_algorithms()
    (None, None)
    >>> torch.get_num_threads() == threads, torch.are_deterministic_algorithms_enabled()
    (True, False)
    """
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills, searches = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark  # pyright: ignore[reportAttributeAccessIssue]
    variables = {name: os.environ.get(name) for name in DETERMINISTIC_VARIABLES}
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.benchmark = searches
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
