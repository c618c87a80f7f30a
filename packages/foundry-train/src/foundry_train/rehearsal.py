"""Refuse before any data are prepared what would only come to light after it: preparing a large corpus takes hours.

    rehearse(config, paths, world)      looks functions up, reads minimal pairs, builds a likeness of the model

Shapes alone tell most of it. Where a model has to compute to tell, a likeness does: of the same family and widths, with
two layers and, where that cannot matter, a small vocabulary.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from foundry_config import ExperimentConfig, ExperimentPaths
from foundry_config.errors import FoundryError
from foundry_config.lookup import pick
from foundry_config.names import is_reference
from foundry_config.shares import steps_of
from foundry_model import ARCHITECTURES, create_model, resolve_attention
from foundry_model.factory import with_layers
from foundry_model.model_request import is_as_published
from foundry_model.pair_files import find_pair_files, read_pair_file
from foundry_train.compilation import wants_compile
from foundry_train.devices import get_device
from foundry_train.distributed import World
from foundry_train.lr_schedules import LrShape, learning_rate_function
from foundry_train.matrix import Cell
from foundry_train.micro_batch import first_micro_batch
from foundry_train.model_setup import check_attention_trains, prepare_for_training
from foundry_train.optimizers import OPTIMIZERS, make_optimizer
from foundry_train.precision import make_precision
from foundry_train.seeding import undisturbed_generators
from foundry_train.sinks import sink_factories

LAYERS = 2  # rwkv cannot be built with fewer
VOCABULARY = 256
SOME_STEPS = 1000


def rehearse(config: ExperimentConfig, paths: ExperimentPaths, world: World, *, resumes: bool = False) -> None:
    """Do in small what a run does after its data are prepared; leaves nothing behind, and no random generator changed.

    Args:
        config: The experiment.
        paths: Where its relative paths lead.
        world: Ranks and device.
        resumes: Whether the run has trained before, so that model and inputs are known to work.

    Raises:
        ConfigError: Architecture, optimizer or device cannot do what the config asks for; a function does not exist.
        DataError: Minimal pairs that cannot be scored.
    """
    sink_factories(config.logging)
    _try_schedule(config)
    if resumes:
        return
    for path in find_pair_files([str(paths.resolve(path)) for path in config.evaluation.minimal_pairs]):
        read_pair_file(path)
    with undisturbed_generators(world.device), _without_messages():
        make_precision(config.training.precision, world.device, bf16_params=config.training.bf16_params)
        wants_compile(config.training.compile, world.device, None)
        _check_model(config, world)


def _try_schedule(config: ExperimentConfig) -> None:
    """Ask the schedule for rates of a run of some length; how long it will be is known with its data."""
    training = config.training
    total = training.train_steps or SOME_STEPS
    warmup = (
        training.warmup_steps if training.warmup_steps is not None else steps_of(training.warmup_ratio or 0.0, total)
    )
    shape = LrShape(
        peak=training.learning_rate,
        total_steps=total,
        warmup_steps=min(warmup, total),
        min_ratio=training.min_lr_ratio,
        decay_ratio=training.decay_ratio,
        power=training.lr_power,
    )
    learning_rate_function(training.lr_schedule, shape)


def rehearse_matrix(cells: Sequence[Cell], base_dir: Path) -> None:
    """Rehearse the runs of a matrix in one process: what is wrong with the last should not be found after days.

    Raises:
        FoundryError: As `rehearse`, naming the run.
    """
    for cell in cells:
        try:
            device = get_device(cell.config.training.device)
            rehearse(cell.config, ExperimentPaths(cell.config, base_dir), World(0, 1, device))
        except FoundryError as error:
            raise type(error)(f"run {cell.index} of the matrix ({cell.name}): {error}") from error


def _check_model(config: ExperimentConfig, world: World) -> None:
    pick(config.training.optimizer, OPTIMIZERS, kind="optimizer")
    if is_reference(config.model.architecture):  # what it builds is not ours to make smaller
        pick(config.model.architecture, ARCHITECTURES, kind="architecture")
        return
    shapes = create_model(config, device="meta")
    check_attention_trains(resolve_attention(config, world.device, model_class=type(shapes)), world.device)
    if not is_reference(config.training.optimizer):  # which may want to see weights
        make_optimizer(shapes, config.training, world.device)
    if not _has_to_be_tried(config):
        return
    likeness = with_layers(config, min(LAYERS, config.model.layers))
    # other families, and what is set in `extra`, may know ids that a small vocabulary does not have
    vocabulary = min(VOCABULARY, config.tokenizer.vocab_size) if is_as_published(config) else None
    model = create_model(likeness, vocab_size=vocabulary, device=world.device)
    micro_batch = first_micro_batch(config, world)
    prepare_for_training(model, likeness, device=world.device, micro_batch=micro_batch, expected_seconds=None)


def _has_to_be_tried(config: ExperimentConfig) -> bool:
    """Whether only a model that computes can tell if it does what the config asks for."""
    training = config.training
    return (
        not is_as_published(config)
        or config.data.document_mask
        or training.chunked_loss == "on"
        or training.gradient_checkpointing
        or training.liger_kernels
    )


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Leave what is said about a model to the one that trains."""
    names = ("foundry_model", "foundry_train.model_setup", "foundry_train.precision")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
