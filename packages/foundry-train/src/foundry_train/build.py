"""Build what trains: model, loss, optimizer, precision, micro-batch. Nothing here touches data or disk.

The generators are seeded right before the model, so that its weights depend on the seed alone and not on whether the
data had to be prepared first.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from foundry_config import ExperimentConfig, TrainingPlan
from foundry_model import SpecialIds, count_parameters, create_model
from foundry_model.attention import FLASH_DISTRIBUTIONS
from foundry_model.cost import known_flops_per_token
from foundry_model.cross_entropy import gpu_kernels
from foundry_train.devices import peak_flops
from foundry_train.distributed import World
from foundry_train.environment import numeric_fingerprint, package_version
from foundry_train.lr_schedules import LrShape, learning_rate_function
from foundry_train.micro_batch import find_micro_batch, first_micro_batch
from foundry_train.model_setup import TrainableModel, prepare_for_training
from foundry_train.optimizers import OptimizerGroup, make_optimizer
from foundry_train.precision import Precision, make_precision
from foundry_train.seeding import set_seed, wants_determinism
from foundry_train.throughput import Throughput

logger = logging.getLogger(__name__)

EXPECTED_MFU = 0.3  # a cautious guess, before anything was measured


class Build(NamedTuple):
    """Everything that an update needs."""

    trainable: TrainableModel
    optimizer: OptimizerGroup
    precision: Precision
    learning_rate: Callable[[int], float]
    micro_batch: int
    flops_per_token: float | None
    fingerprint: dict[str, Any]

    @property
    def model(self) -> Any:
        """The model itself, without wrappers."""
        return self.trainable.model


def build(
    config: ExperimentConfig, plan: TrainingPlan, tokenizer: Any, world: World, *, run_dir: Path | None = None
) -> Build:
    """Build model and optimizer for `world.device`.

    Args:
        config: The experiment.
        plan: Its plan, which the learning rate follows.
        tokenizer: Its special ids and size shape the model.
        world: Ranks and device.
        run_dir: Where `micro_batch_size: auto` remembers its answer.

    Raises:
        ConfigError: Architecture, optimizer or device cannot do what the config asks for.
    """
    training, device = config.training, world.device
    precision = make_precision(training.precision, device, bf16_params=training.bf16_params)
    set_seed(config.random_seed, deterministic=wants_determinism(training, device))
    model = create_model(config, vocab_size=tokenizer.vocab_size, special_ids=special_ids(tokenizer), device=device)
    world.broadcast_parameters(model)
    if world.rank:
        torch.manual_seed(config.random_seed + world.rank)  # another dropout on every rank
    flops = known_flops_per_token(model, config.data.max_sequence_length)
    seconds = expected_training_seconds(flops, plan, world, peak_flops(device, training.precision))
    start = first_micro_batch(config, world)
    trainable = prepare_for_training(model, config, device=device, micro_batch=start, expected_seconds=seconds)
    optimizer = make_optimizer(model, training, device)
    gpu_kernels(device)  # settled before `auto` fills the device
    micro_batch = find_micro_batch(
        config,
        world,
        run_dir,
        loss_function=trainable.loss_function,
        model=model,
        optimizer=optimizer,
        precision=precision,
    )
    return Build(
        trainable=trainable,
        optimizer=optimizer,
        precision=precision,
        learning_rate=learning_rate_function(training.lr_schedule, lr_shape(config, plan)),
        micro_batch=micro_batch,
        flops_per_token=flops,
        fingerprint=fingerprint_of(trainable, config, world),
    )


def lr_shape(config: ExperimentConfig, plan: TrainingPlan) -> LrShape:
    """The numbers that a learning-rate schedule depends on."""
    training = config.training
    return LrShape(
        peak=training.learning_rate,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        min_ratio=training.min_lr_ratio,
        decay_ratio=training.decay_ratio,
        power=training.lr_power,
    )


def expected_training_seconds(
    flops_per_token: float | None, plan: TrainingPlan, world: World, peak_flops: float | None
) -> float | None:
    """Guess how long the whole plan takes, or None where FLOPs or peak are not known."""
    if flops_per_token is None or peak_flops is None:
        return None
    tokens = plan.total_steps * plan.tokens_per_step / world.size
    return flops_per_token * tokens / (EXPECTED_MFU * peak_flops)


def special_ids(tokenizer: Any) -> SpecialIds:
    """The special ids of a tokenizer, as the model factory takes them."""
    return SpecialIds(pad=tokenizer.pad_id, bos=tokenizer.bos_id, eos=tokenizer.eos_id, unk=tokenizer.unk_id)


def fingerprint_of(trainable: TrainableModel, config: ExperimentConfig, world: World) -> dict[str, Any]:
    """What decides about the bits of this run, on this machine."""
    training = config.training
    # only where they are used: a run made without them has the fingerprint that it always had
    kernels: dict[str, Any] = {}
    if training.liger_kernels:
        kernels["liger_kernels"] = package_version("liger-kernel")
    if training.bf16_params:
        kernels["bf16_params"] = True
    if trainable.loss_function.cpu_attention:
        kernels["cpu_attention"] = True
    attention = getattr(trainable.model, "foundry_attention", None)
    if attention in FLASH_DISTRIBUTIONS:
        kernels["flash_attention"] = package_version(FLASH_DISTRIBUTIONS[attention])
    if world.device.type == "cuda":
        kernels["loss_kernels"] = getattr(gpu_kernels(world.device), "VERSION", None)
    return numeric_fingerprint(
        world.device,
        model=trainable.model,
        attention=attention,
        precision=training.precision,
        compiled=trainable.compiled,
        chunked_loss=trainable.chunked,
        gradient_checkpointing=training.gradient_checkpointing,
        optimizer=training.optimizer,
        world_size=world.size,
        **kernels,
    )


def make_throughput(config: ExperimentConfig, built: Build, world: World) -> Throughput:
    """Count tokens against the peak of the device."""
    peak = peak_flops(world.device, config.training.precision)
    return Throughput(world_size=world.size, flops_per_token=built.flops_per_token, peak_flops=peak)


def describe_build(built: Build, world: World) -> str:
    """Say what trains, and how.

    >>> describe_build(built, World())                                                # doctest: +SKIP
    '1,234,567 parameters on cpu, fp32, sdpa attention, micro-batch 8'
    """
    parts = [
        f"{count_parameters(built.model).total:,} parameters on {world.device}",
        built.precision.name + (" with weights in bf16" if built.trainable.bf16_weights else ""),
        f"{getattr(built.model, 'foundry_attention', 'own')} attention",
        f"micro-batch {built.micro_batch}",
    ]
    if built.trainable.compiled:
        parts.append("compiled")
    if built.trainable.chunked:
        parts.append("loss in chunks")
    return ", ".join(parts)
