"""Check where a model is to go before it costs anything to build it."""

import torch

from foundry_config.errors import ConfigError


def usable_device(wish: torch.device | str) -> torch.device:
    """Return the device that a caller names, once a tensor has been put there.

    Raises:
        ConfigError: PyTorch knows no such device, or this machine has none.
    """
    try:
        return torch.empty(0, device=wish).device
    except (RuntimeError, AssertionError, TypeError) as error:  # each backend of PyTorch has its own way to say no
        reason = str(error).strip().partition("\n")[0][:200]
        raise ConfigError(f"device: {wish!r} cannot be used: {reason}; write 'cpu', 'cuda:0' or 'mps'") from error
