"""Where a run happened: versions, hardware, git state, command; and the part of it that decides about bits.

`environment_snapshot()` is for people who read a paper two years later. `numeric_fingerprint()` is for the resume: when
it is equal, the same steps give the same bits; when not, it names the component that differs.
"""

import hashlib
import importlib.metadata
import inspect
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

SHOWN_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "SLURM_JOB_ID",
    "WORLD_SIZE",
)  # an allow-list: nothing that might hold a secret gets into a run directory
_BIT_VARIABLES = (
    "MKL_CBWR",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)
_SECRET = re.compile(r"(?i)([\w.-]*(?:token|(?:key|secret|password|credential)s?)[=: ]+)(\S+)")


def get_git_commit_hash(path: Path | None = None) -> str:
    """Return the commit (40 hex digits) checked out at `path`, by default the working directory, or `unknown`."""
    return _git(path, "rev-parse", "HEAD") or "unknown"


def git_state(path: Path | None = None) -> dict[str, Any]:
    """Return commit, whether tracked files differ from it, and a digest of that difference."""
    commit = get_git_commit_hash(path)
    if commit == "unknown":
        return {"commit": commit, "dirty": None, "diff": None}
    difference = _git(path, "diff", "HEAD", "--no-color", "--no-ext-diff") or ""
    digest = "sha256:" + hashlib.sha256(difference.encode()).hexdigest()
    return {"commit": commit, "dirty": bool(difference), "diff": digest if difference else None}


def environment_snapshot(device: torch.device, base_dir: Path) -> dict[str, Any]:
    """Describe software, hardware and command, as JSON-ready values without secrets."""
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "packages": installed_packages(),
        "git": git_state(base_dir),
        "hardware": hardware(device),
        "command": [redact(argument) for argument in sys.argv],
        "variables": {name: os.environ[name] for name in SHOWN_VARIABLES if name in os.environ},
    }


def numeric_fingerprint(
    device: torch.device, *, model: torch.nn.Module | None = None, **settings: Any
) -> dict[str, Any]:
    """Collect what decides about the bits of a run on this machine.

    Args:
        device: Where the model trains.
        model: Its implementation (the source file of its class) is part of the fingerprint.
        settings: Further components known to the caller: precision, compile mode, attention, optimizer, world size ...
    """
    fingerprint: dict[str, Any] = {
        "torch": str(torch.__version__),
        "torch_git": torch.version.git_version,
        "transformers": package_version("transformers"),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "float32_matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "variables": {name: os.environ[name] for name in _BIT_VARIABLES if name in os.environ},
    }
    if device.type == "cuda":
        fingerprint["cuda"] = {
            "device": torch.cuda.get_device_name(device),
            "toolkit": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    if model is not None:
        fingerprint["model_source"] = source_digest(type(model))
    return fingerprint | settings


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe the processor, the memory and the accelerators."""
    found: dict[str, Any] = {"cpu": cpu_name(), "cores": os.cpu_count(), "memory_bytes": total_memory_bytes()}
    if device.type == "cuda":
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
        found["driver"] = _first_match(Path("/proc/driver/nvidia/version"), r"Kernel Module(?: for \S+)?\s+([\d.]+)")
    return found


def cpu_name() -> str:
    """Model name of the processor."""
    return _first_match(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.processor() or platform.machine()


def total_memory_bytes() -> int | None:
    """Physical memory of the machine, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def installed_packages() -> dict[str, str]:
    """Name and version of every installed distribution."""
    found = {dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name}
    return dict(sorted(found.items(), key=lambda entry: entry[0].lower()))


def package_version(name: str) -> str | None:
    """Version of an installed distribution, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def source_digest(cls: type) -> str | None:
    """SHA-256 of the source file that defines `cls`, or None for a class without one."""
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        return None
    if file is None or not Path(file).is_file():
        return None
    return "sha256:" + hashlib.sha256(Path(file).read_bytes()).hexdigest()


def redact(text: str) -> str:
    """Replace what looks like the value of a secret.

    >>> redact("--set logging.wandb_api_key=abc123")
    '--set logging.wandb_api_key=<redacted>'
    """
    return _SECRET.sub(r"\1<redacted>", text)


def _git(path: Path | None, *arguments: str) -> str | None:
    command = ["git", "-C", str(path or Path.cwd()), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _first_match(file: Path, pattern: str) -> str | None:
    try:
        found = re.search(pattern, file.read_text(errors="replace"))
    except OSError:
        return None
    return found.group(1).strip() if found else None
