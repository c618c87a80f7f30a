"""Memory: settings before a run, and numbers during it.

What "memory" means depends on the device: on CUDA the peak of allocated bytes, elsewhere the resident size of the
process.
"""

import ctypes
import logging
import os
import platform
import resource
import sys
from pathlib import Path
from typing import NamedTuple

import torch

logger = logging.getLogger(__name__)

FRAGMENTED = 0.3  # share of CUDA memory reserved in vain from which on a warning is worth its line

# Parameters of glibc's mallopt and the values that kept freed activations inside the process instead of giving them
# back to the kernel and faulting them in again every step: 5 to 11 % faster at 14M parameters, for about 0.2 GB.
_MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**30), "M_TOP_PAD": (-2, 2**26), "M_MMAP_THRESHOLD": (-3, 2**30)}


class MemoryUse(NamedTuple):
    """One measurement. [bytes]"""

    used: int
    """Allocated on CUDA, resident elsewhere."""
    peak: int
    reserved: int
    """Held by CUDA's caching allocator; equals `used` elsewhere."""

    @property
    def fragmentation(self) -> float:
        """Share of the reserved memory that was not allocated even at the peak, so that pieces of it must be too small.

        What is free at one moment says nothing: between two updates that is all that the activations filled.
        """
        return max(0.0, 1.0 - self.peak / self.reserved) if self.reserved else 0.0


def setup_memory(device: torch.device) -> None:
    """Choose allocator settings for a training run; what the user has set in the environment is left alone."""
    if device.type == "cuda":
        if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
            # read when CUDA starts; growing segments keep ragged batch shapes from fragmenting the pool
            os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        tune_cpu_allocator()


def tune_cpu_allocator() -> bool:
    """Make glibc keep freed memory for the next step; returns whether anything was changed (Linux with glibc only)."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    accepted = [mallopt(parameter, value) == 1 for parameter, value in _MALLOPT.values()]
    return all(accepted)


def memory_use(device: torch.device) -> MemoryUse:
    """Measure now; on CUDA this asks the allocator's counters and does not wait for the device."""
    if device.type == "cuda":
        stats = torch.cuda.memory_stats(device)
        return MemoryUse(
            used=stats["allocated_bytes.all.current"],
            peak=stats["allocated_bytes.all.peak"],
            reserved=stats["reserved_bytes.all.current"],
        )
    used = resident_bytes()
    return MemoryUse(used=used, peak=max(used, peak_resident_bytes()), reserved=used)


def resident_bytes() -> int:
    """Resident size of this process; its peak where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_resident_bytes()


def available_memory_bytes() -> int | None:
    """Memory that new allocations can get without swapping, where the system tells."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None


def peak_resident_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def warn_if_fragmented(use: MemoryUse) -> bool:
    """Warn when CUDA's allocator holds much more than it uses; returns whether it did."""
    if use.fragmentation < FRAGMENTED or use.reserved < 2**30:
        return False
    logger.warning(
        "CUDA memory is fragmented: %.1f GiB reserved, never more than %.1f GiB used; "
        "PYTORCH_ALLOC_CONF=expandable_segments:True or a smaller training.micro_batch_size helps",
        use.reserved / 2**30,
        use.peak / 2**30,
    )
    return True


def release_memory(device: torch.device) -> None:
    """Give cached blocks back to the device, after an out-of-memory error."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
