"""Settings of the whole process, made once before anything is built: threads, memory, seeds, ranks."""

import logging

import torch

from foundry_config import ExperimentConfig
from foundry_config.errors import ConfigError
from foundry_train.distributed import World
from foundry_train.memory import setup_memory
from foundry_train.seeding import set_seed, wants_determinism

logger = logging.getLogger(__name__)


def set_up_process(config: ExperimentConfig, world: World) -> None:
    """Apply `training.threads`, memory settings, `random_seed` and `training.deterministic`.

    Raises:
        ConfigError: The ranks cannot share the batches evenly enough to be worth it.
    """
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    setup_memory(world.device)  # before CUDA starts
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    set_seed(config.random_seed, deterministic=wants_determinism(config.training, world.device))
    logging.getLogger("transformers.modeling_utils").addFilter(is_no_padding_advice)
    check_ranks(config, world)


def say_where(config: ExperimentConfig, world: World) -> None:
    """Log what this process is, and what is not to be expected of it; once there is a log."""
    if world.size > 1:
        logger.info("rank %d of %d on %s", world.rank, world.size, world.device)
    if world.device.type == "cuda" and not config.training.deterministic:
        logger.info("on CUDA, only training.deterministic: true makes sure that a resumed run has the same bits")


def is_no_padding_advice(record: logging.LogRecord) -> bool:
    """Hold back the advice of transformers to pass an attention mask.

    Rows are padded on the right and padding is never a target, so that under causal attention a mask changes nothing;
    passing one would turn the isolation of packed documents off (see `foundry_model.loss`).
    """
    return not str(record.msg).startswith("We strongly recommend passing in an `attention_mask`")


def check_ranks(config: ExperimentConfig, world: World) -> None:
    """Refuse a number of ranks that does not divide `data.batch_size`.

    Raises:
        ConfigError: It does not.
    """
    if config.data.batch_size % world.size:
        raise ConfigError(
            f"data.batch_size: {config.data.batch_size} sequences cannot be shared evenly by {world.size} ranks; "
            "start a number of ranks that divides it"
        )


def describe_batch(config: ExperimentConfig, world: World) -> str:
    """Say what makes one step, in numbers that a person would check.

    >>> describe_batch(config, World())                                             # doctest: +SKIP
    '8 sequences x 128 tokens x 4 accumulation = 4,096 tokens per step, 1 rank'
    """
    data, accumulation = config.data, config.training.gradient_accumulation_steps
    tokens = data.batch_size * data.max_sequence_length * accumulation
    sequences = "1 sequence" if data.batch_size == 1 else f"{data.batch_size} sequences"
    ranks = "1 rank" if world.size == 1 else f"{world.size} ranks"
    return (
        f"{sequences} x {data.max_sequence_length} tokens x {accumulation} accumulation "
        f"= {tokens:,} tokens per step, {ranks}"
    )
