"""How many sequences go through the model at once: given, taken from the batch size, or found out.

    training.micro_batch_size: 8       8, halved later if memory runs out
    (not given)                        data.batch_size over the ranks, likewise
    auto                               the rank's share of the global batch, halved until it fits; remembered in the run

On a GPU `auto` tries: forward and backward over a batch of zeros, with room set aside for what the optimizer will need,
and without the compiler, which would take a minute for each size and saves no memory.
On a CPU trying would end in the arms of the kernel, which kills instead of refusing; there the estimate decides.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from foundry_config import ExperimentConfig, config_digest
from foundry_config.errors import ConfigError, MemoryExhaustedError
from foundry_data import fs
from foundry_model.loss import TokenLoss
from foundry_model.memory import estimate_memory
from foundry_model.modes import without_compiler
from foundry_model.out_of_memory import is_out_of_memory
from foundry_train.distributed import World
from foundry_train.memory import available_memory_bytes, release_memory
from foundry_train.optimizers import OptimizerGroup, trainable
from foundry_train.precision import Precision
from foundry_train.rollback import Rollback
from foundry_train.step import LossFunction

logger = logging.getLogger(__name__)

FILE_NAME = "micro_batch.json"
USED_SHARE = 0.8  # of the free memory of a CPU that an estimate may fill; it is right to about a fifth
OPTIMIZER_COPIES = 2  # of the parameters: what AdamW keeps, more than any other here


def rank_share(config: ExperimentConfig, world: World) -> int:
    """Sequences of a global batch that one rank gets."""
    return config.data.batch_size * config.training.gradient_accumulation_steps // world.size


def first_micro_batch(config: ExperimentConfig, world: World) -> int:
    """Sequences per forward pass and rank that the config asks for; with `auto`, the largest that could be."""
    wish = config.training.micro_batch_size
    share = rank_share(config, world)
    if wish == "auto":
        return share
    return min(share, wish or config.data.batch_size // world.size)


def find_micro_batch(
    config: ExperimentConfig,
    world: World,
    run_dir: Path | None,
    *,
    loss_function: TokenLoss,
    model: torch.nn.Module,
    optimizer: OptimizerGroup,
    precision: Precision,
) -> int:
    """Settle `micro_batch_size: auto`, by memory of an earlier start or by finding out; else return what was given.

    Args:
        config: The experiment.
        world: All ranks settle for the smallest of their answers.
        run_dir: Where the answer is kept; None keeps nothing.
        loss_function: As the loop calls it.
        model: On the device, in training mode; left as it was.
        optimizer: Drops the gradients of each try.
        precision: Autocast of the tries.

    Raises:
        MemoryExhaustedError: Not even one sequence fits.
    """
    start = first_micro_batch(config, world)
    if config.training.micro_batch_size != "auto":
        return start
    digest = config_digest(config, classes=("identity", "numeric"))
    key = {"config": digest, "device": _device_name(world.device), "ranks": world.size}
    found = remembered(run_dir, key)
    if found is None and world.device.type == "cpu":
        chunked = getattr(loss_function, "chunked", None)
        try:
            found = largest_by_estimate(lambda m: _estimated_bytes(config, world, m, chunked), start)
        except ConfigError as error:
            logger.warning("training.micro_batch_size: auto takes all %d sequences: %s", start, error)
            found = start
    elif found is None:
        attempt = _attempt(config, world.device, loss_function, optimizer, precision, start)
        reserve = OPTIMIZER_COPIES * sum(p.numel() * p.element_size() for p in trainable(model))
        with without_compiler(loss_function):
            found = largest_that_fits(attempt, start, model=model, device=world.device, reserve_bytes=reserve)
    found = world.smallest(found)
    logger.info("training.micro_batch_size: auto is %d of %d sequences", found, start)
    if run_dir is not None:
        fs.write_atomic(run_dir / FILE_NAME, json.dumps({"key": key, "micro_batch": found}).encode() + b"\n")
    return found


def largest_by_estimate(estimate: Callable[[int], int], start: int, *, available: int | None = None) -> int:
    """Halve from `start` until the estimated bytes fit into the free memory; 1 is not refused, only warned about."""
    free = available_memory_bytes() if available is None else available
    micro_batch = start
    while free is not None and estimate(micro_batch) > USED_SHARE * free:
        if micro_batch == 1:
            logger.warning("even one sequence at a time may be too much for the %.1f GiB that are free", free / 2**30)
            break
        micro_batch //= 2
    return micro_batch


def largest_that_fits(
    attempt: Callable[[int], None], start: int, *, model: torch.nn.Module, device: torch.device, reserve_bytes: int = 0
) -> int:
    """Halve from `start` until `attempt(micro_batch)` does not run out of memory.

    Args:
        attempt: One forward and backward pass over so many sequences.
        start: The largest number to try.
        model: What it runs; its buffers, and the generators, are put back after each try.
        device: Where it runs.
        reserve_bytes: Kept occupied meanwhile, for what the first update will allocate.

    Raises:
        MemoryExhaustedError: Not even one sequence fits.
    """
    micro_batch = start
    rollback = Rollback(model, device)
    rollback.mark()
    while not _fits(attempt, micro_batch, device, reserve_bytes, rollback):
        release_memory(device)
        if micro_batch == 1:
            raise MemoryExhaustedError(
                "training.micro_batch_size: auto: not even one sequence fits into memory; lower "
                "data.max_sequence_length or the size of the model, or set training.gradient_checkpointing: true"
            )
        micro_batch //= 2
    release_memory(device)
    return micro_batch


def remembered(run_dir: Path | None, key: dict[str, Any]) -> int | None:
    """Return what an earlier start of the run found under the same conditions, or None."""
    if run_dir is None:
        return None
    try:
        found = json.loads((run_dir / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    value = found.get("micro_batch") if isinstance(found, dict) and found.get("key") == key else None
    return value if isinstance(value, int) and value >= 1 else None


def _attempt(
    config: ExperimentConfig,
    device: torch.device,
    loss_function: LossFunction,
    optimizer: OptimizerGroup,
    precision: Precision,
    share: int,
) -> Callable[[int], None]:
    """Return passes forward and backward over so many sequences, as many as an update of `share` makes, or two."""

    def attempt(micro_batch: int) -> None:
        length = config.data.max_sequence_length
        ids = torch.zeros(micro_batch, length, dtype=torch.long, device=device)
        positions = None
        if config.data.document_mask:  # two documents a row: with one alone, transformers would leave the mask out
            positions = (torch.arange(length, device=device) % -(-length // 2)).repeat(micro_batch, 1)
        try:
            for _ in range(min(2, -(-share // micro_batch))):  # the second pass finds the gradients of the first
                with precision.autocast():
                    loss, _ = loss_function(ids, ids.clone(), positions, None)
                loss.backward()
        finally:
            optimizer.zero_grad()

    return attempt


def _fits(
    attempt: Callable[[int], None], micro_batch: int, device: torch.device, reserve_bytes: int, rollback: Rollback
) -> bool:
    try:
        reserve = torch.empty(reserve_bytes, dtype=torch.uint8, device=device)
        attempt(micro_batch)
        del reserve
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        rollback.back()
    return True


def _estimated_bytes(config: ExperimentConfig, world: World, micro_batch: int, chunked: bool | None) -> int:
    return estimate_memory(config, micro_batch=micro_batch, chunked_loss=chunked, world_size=world.size).total


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
