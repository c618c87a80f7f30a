"""`torch.compile`: whether it pays, whether it can work here, and what to say when it does not."""

import logging
import sys

import torch

from foundry_config.errors import ConfigError
from foundry_model.cross_entropy import gpu_kernels

COMPILE_SECONDS = 60.0  # what compilation costs on a GPU, roughly
COMPILE_GAIN = 0.2
_OFF = "set training.compile: off"


def wants_compile(wish: str, device: torch.device, expected_seconds: float | None) -> bool:
    """Decide about torch.compile; `auto` compiles on CUDA when the time it saves repays the time it takes.

    Args:
        wish: `training.compile`.
        device: Where it trains.
        expected_seconds: Guess of how long the run computes; None if unknown.

    Raises:
        ConfigError: It was asked for and cannot work on this machine.
    """
    if wish == "on":
        if device.type == "cpu":
            require_cpp_compiler()
        return True
    if wish == "off" or device.type != "cuda" or expected_seconds is None:
        return False
    # Triton needs a C compiler of the machine; where its kernels for the loss do not work, no compiled program will
    return expected_seconds * COMPILE_GAIN > COMPILE_SECONDS and gpu_kernels(device) is not None


def compile_failure(error: BaseException) -> ConfigError | None:
    """Return what to tell the user if `error` comes from the compiler, else None.

    >>> compile_failure(ValueError("of something else"))
    """
    errors = sys.modules.get("torch._dynamo.exc")  # takes a second to load, and what was not loaded raised nothing
    if errors is None or not isinstance(error, errors.TorchDynamoException):
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # PyTorch's first line gives the class, and where a compiler was called, its own first error tells more
    reason = lines[0] if lines else type(error).__name__
    told = next((line for line in lines[1:] if "error: " in line), None)
    said = reason if told is None else f"{reason} ({told})"
    return ConfigError(f"training.compile: PyTorch cannot compile this model here: {said}; {_OFF}")


def quieten_compiler(device: torch.device) -> None:
    """Keep PyTorch from warning, on a CPU, that the toolkit of CUDA on the machine has no GPU to work for."""
    if device.type == "cpu":
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def require_cpp_compiler() -> None:
    """Make sure of what PyTorch needs on a CPU, before a run has spent time on anything else.

    Raises:
        ConfigError: There is no C++ compiler that works.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ConfigError(
            "training.compile: PyTorch needs a C++ compiler to compile for a CPU, and none works here; install g++, "
            f"or name another in the environment variable CXX, or {_OFF}"
        ) from None
