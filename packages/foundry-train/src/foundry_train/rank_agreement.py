"""What the ranks of a run say to each other about checkpoints: rank 0 reads and writes, the others follow.

With one process, which is the usual case, every function returns at once.
"""

import torch
import torch.distributed as dist
from torch import nn

_NOTHING = -1


def rank() -> int:
    """This process's number; 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def broadcast_number(number: int | None, device: torch.device) -> int | None:
    """Return rank 0's `number` (not negative, or None) on every rank."""
    if world_size() == 1:
        return number
    value = torch.tensor([_NOTHING if number is None else number], device=device)
    dist.broadcast(value, src=0)
    return None if int(value) == _NOTHING else int(value)


def collective_device(model: nn.Module) -> torch.device:
    """Where the ranks exchange tensors: the model's device."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
