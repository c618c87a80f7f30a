"""The arithmetic of a run: fp32, tf32, bf16 or fp16, through autocast; weights and optimizer stay fp32.

With `bf16_params` it is not autocast that casts: the pass goes through a copy of the model in bf16, see `bf16_weights`.

fp16 needs its loss scaled up before the backward pass, so that small gradients do not vanish. When the scaled gradient
overflows, the update is not made: the scale is halved and *the same global batch is replayed*, so that no data is
skipped and a step stays a completed update.

    precision = make_precision("fp16", torch.device("cpu"))
    with precision.autocast():
        loss = ...
    precision.scaler.scale(loss).backward()
"""

import contextlib
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

from foundry_config.errors import ConfigError

logger = logging.getLogger(__name__)


class Precision(NamedTuple):
    """How the forward and backward pass compute."""

    name: str
    autocast: Callable[[], contextlib.AbstractContextManager[object]]
    scaler: torch.amp.GradScaler | None
    """Present with fp16 only."""


def make_precision(name: str, device: torch.device, *, bf16_params: bool = False) -> Precision:
    """Set the process up for the precision called `name` and return its parts.

    Args:
        name: fp32, tf32, bf16 or fp16.
        device: Where it computes.
        bf16_params: The weights that compute are in bf16 themselves; only with `bf16`.

    Raises:
        ConfigError: Unknown name, or the device cannot compute in it.
    """
    if name not in {"fp32", "tf32", "bf16", "fp16"}:
        raise ConfigError(f"training.precision: unknown {name!r}. Known: fp32, tf32, bf16, fp16")
    if device.type == "cuda" and name == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"training.precision: bf16 is not supported by {torch.cuda.get_device_name(device)}; use fp16 or fp32"
        )
    if name == "tf32" and device.type != "cuda":
        logger.warning("training.precision: tf32 exists on CUDA only; %s computes in fp32", device.type)
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    if name in {"fp32", "tf32"} or bf16_params:
        return Precision(name, contextlib.nullcontext, None)
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None
    return Precision(name, lambda: torch.autocast(device.type, dtype=dtype), scaler)
