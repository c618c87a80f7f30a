"""The ranks of a run. One process is the usual case, and everything here then costs nothing.

    with open_world("auto") as world:               # torchrun sets RANK, WORLD_SIZE and LOCAL_RANK
        world.sum_gradients(parameters)             # every rank then holds the gradient of the global batch
        if world.is_main: ...                       # files, sinks and the console belong to rank 0

The loss of a rank is a *sum* over its targets, divided by the number of targets in the whole global batch; so summing
gradients over ranks, not averaging them, gives the exact gradient, however unevenly the targets fall on the ranks.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from foundry_config.errors import ConfigError, WorkerError
from foundry_train.devices import get_device

JOINING = timedelta(minutes=30)
PATIENCE = timedelta(days=7)  # rank 0 may prepare a corpus or evaluate for hours; torchrun ends all ranks if one dies
BUCKET_BYTES = 25 * 2**20  # large enough for bandwidth, small enough to overlap copy and transfer; DDP's own choice


@dataclass(frozen=True)
class World:
    """Where this process stands among all that train the same model."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum `values` over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum `.grad` of every parameter over the ranks, in place; a missing gradient counts as zeros."""
        if self.size == 1:
            return
        for bucket in _buckets(parameters):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            pieces = flat.split([gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    def main_says(self, answer: bool) -> bool:
        """Return rank 0's `answer` on every rank: for decisions that depend on a clock or a signal."""
        if self.size == 1:
            return answer
        flag = torch.tensor(int(answer), device=self.device)
        dist.broadcast(flag, src=0)
        return bool(flag)

    def any_says(self, answer: bool) -> bool:
        """Return whether `answer` is true on some rank."""
        if self.size == 1:
            return answer
        flag = torch.tensor(int(answer), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def smallest(self, number: int) -> int:
        """Return the smallest of the ranks' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return int(value)

    def broadcast_parameters(self, model: torch.nn.Module) -> None:
        """Make every rank hold rank 0's parameters and buffers."""
        if self.size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, src=0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(device_ids=None if self.device.index is None else [self.device.index])


@contextlib.contextmanager
def open_world(wish: str = "auto") -> Iterator[World]:
    """Join the ranks that torchrun started, or be alone; the process group ends with the block, unless that raises.

    Args:
        wish: `training.device`; `auto` becomes `cuda:<LOCAL_RANK>` where there is CUDA.

    Raises:
        ConfigError: The environment names ranks that do not make sense, or all are to share one card.
    """
    size = _environment_number("WORLD_SIZE", 1)
    if size == 1:
        yield World(device=get_device(wish))
        return
    rank, local = _environment_number("RANK", 0), _environment_number("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        raise ConfigError(f"RANK is {rank} but WORLD_SIZE is {size}; start all ranks with torchrun")
    if re.fullmatch(r"cuda:\d+", wish) and _environment_number("LOCAL_WORLD_SIZE", size) > 1:
        raise ConfigError(f"training.device: {wish!r} is one card for all {size} ranks; write cuda, a card for each")
    device = get_device(f"cuda:{local}" if wish in {"auto", "cuda"} and torch.cuda.is_available() else wish)
    owns_group = not dist.is_initialized()
    if owns_group:
        try:
            _join("nccl" if device.type == "cuda" else "gloo")
        except (ValueError, dist.DistError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"the {size} ranks cannot be joined: {reason}; start them all with torchrun") from error
    yield World(rank, size, device)
    if owns_group:  # not after an error: it waits for ranks that wait for this one, and torchrun would never hear of it
        dist.destroy_process_group()


def _join(backend: str) -> None:
    """Meet the other ranks within half an hour; from then on wait for them as long as it takes."""
    store, rank, size = next(rendezvous("env://", timeout=JOINING))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)


def lost_rank(error: BaseException) -> WorkerError | None:
    """Return what to tell the user if `error` says that another rank is gone, else None.

    >>> lost_rank(ValueError("of something else"))
    """
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error)):
        return WorkerError(
            "another process of this run ended or cannot be reached, so this one cannot go on; what it was is said by"
            " that process, or by the system where it was killed. Run the same command again to go on"
        )
    return None


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    count = 0
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        size = parameter.grad.numel() * parameter.grad.element_size()
        if bucket and (count + size > BUCKET_BYTES or bucket[0].dtype != parameter.grad.dtype):
            yield bucket
            bucket, count = [], 0
        bucket.append(parameter.grad)
        count += size
    if bucket:
        yield bucket


def _environment_number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"environment variable {name} is {text!r}; expected a whole number, as torchrun sets it")
    return int(text)
