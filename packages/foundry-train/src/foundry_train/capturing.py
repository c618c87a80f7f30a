"""Take everything that one checkpoint needs out of a running training, in one moment.

What is taken: tensors (copied, or as they are when the save blocks), counters, random generators of all ranks, and the
description of the run that goes into the manifest. Nothing is written here.
"""

import datetime
import logging
import math
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import torch

from foundry_config import ExperimentConfig
from foundry_model.pretrained import model_state
from foundry_model.scoring_tokenizer import trained_start
from foundry_train.checkpoint_files import Capture, model_files
from foundry_train.manifest import Consumed, Kind, Manifest, WeightsSummary, is_revision
from foundry_train.plain_values import encode_plain
from foundry_train.rank_agreement import collective_device, rank
from foundry_train.restoring import STATE_FORMAT, Parts
from foundry_train.rng_state import gather_rng
from foundry_train.state import TrainState, state_to_json
from foundry_train.tensor_tree import OptimizerTree, export_optimizer

logger = logging.getLogger(__name__)

CopyTensors = Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
_MODEL, _OPTIMIZER = "model ", "optimizer "  # keep the two apart in one dictionary of buffers


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The run that checkpoints belong to."""

    run_id: str
    config: str = ""
    data: str = ""
    tokenizer: str = ""
    fingerprint: dict[str, Any] = {}
    tokenizer_dir: Path | None = None
    attempt: int = 1


class Occasion(NamedTuple):
    """Why and as what a checkpoint is saved."""

    kind: Kind
    milestone: bool
    label: str | None
    loss: float | None


def make_occasion(kind: Kind, milestone: bool, label: str | None, loss: Any) -> Occasion:
    """Return why and as what to save, after a look at what a caller said: a manifest that holds it must be readable.

    Raises:
        ValueError: One of them is not what it should be.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind: {kind!r} is neither 'full' nor 'weights'")
    if not isinstance(milestone, bool):
        raise ValueError(f"milestone: {milestone!r} is neither True nor False")
    if label is not None and not (isinstance(label, str) and is_revision(label)):
        raise ValueError(f"label: {label!r:.80} cannot name a revision; use letters, digits, '.', '_' and '-'")
    try:
        return Occasion(kind, milestone, label, None if loss is None else float(loss))
    except (TypeError, ValueError) as error:
        raise ValueError(f"loss: {loss!r:.80} is not a number") from error


def whole_number(name: str, value: Any) -> int:
    """Return a count as Python's integer, also one of NumPy.

    Raises:
        ValueError: It is none from 0 to 2**53.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number <= 2**53:
        raise ValueError(f"{name}: {value!r:.80} is not a whole number from 0 on")
    return number


def counters(state: TrainState | None, step: int, epoch: int) -> TrainState:
    """Return `state`, or one of step and epoch alone.

    Raises:
        ValueError: A number is none, or `state` is of another step.
    """
    if state is None:
        return TrainState(step=whole_number("global_step", step), epoch=whole_number("epoch", epoch))
    if state.step != step:
        raise ValueError(f"global_step is {step}, but the state says step {state.step}")
    return state


def capture_run(
    parts: Parts, state: TrainState, occasion: Occasion, manifest: Manifest, copy: CopyTensors
) -> Capture | None:
    """Capture a training; every rank must call it, and all but rank 0, which do not write, get None.

    Args:
        parts: Model and, for a full checkpoint, what else a resume needs.
        state: The counters.
        occasion: What is saved.
        manifest: The part of the manifest that does not depend on the files (`describe_run`).
        copy: Brings tensors to the CPU.
    """
    full = occasion.kind == "full"
    generators = gather_rng(collective_device(parts.model)) if full else []
    if rank() != 0:
        return None
    tree = export_optimizer(parts.model, parts.optimizer) if full else OptimizerTree({}, [])
    tensors = {_MODEL + name: tensor for name, tensor in model_state(parts.model).items()}
    copies = copy(tensors | {_OPTIMIZER + name: tensor for name, tensor in tree.tensors.items()})
    return Capture(
        weights=_with_prefix(copies, _MODEL),
        optimizer=_with_prefix(copies, _OPTIMIZER),
        rng=generators,
        state=_state(parts, state, tree, [generator.plain for generator in generators]) if full else None,
        plain_files=model_files(parts.model),
        manifest=manifest,
    )


def describe_run(
    config: ExperimentConfig, identity: RunIdentity, git_commit: str, state: TrainState, occasion: Occasion
) -> Manifest:
    """Return a manifest without files, weights and parent.

    Raises:
        ValueError: A counter of `state` is not what it should be.
    """
    manifest = Manifest(
        run_id=identity.run_id,
        step=state.step,
        kind=occasion.kind,
        milestone=occasion.milestone,
        label=occasion.label,
        attempt=identity.attempt,
        files={},
        weights=WeightsSummary("", 0, 0),
        consumed=Consumed(state.sequences, state.tokens, state.words, state.epoch, state.position),
        experiment_name=config.experiment_name,
        git_commit=git_commit,
        model_config=msgspec.to_builtins(config.model),
        training_config=msgspec.to_builtins(config.training),
        config=identity.config,
        data=identity.data,
        tokenizer=identity.tokenizer,
        fingerprint=identity.fingerprint,
        loss=_finite_or_none(occasion.loss),
        document_start=trained_start(config.data),
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    try:
        return msgspec.convert(msgspec.to_builtins(manifest), Manifest)
    except (msgspec.ValidationError, TypeError) as error:
        raise ValueError(f"the state of the training cannot be saved: {error}") from error


def _state(parts: Parts, state: TrainState, tree: OptimizerTree, generators: list[dict[str, Any]]) -> dict[str, Any]:
    scheduler, scaler = parts.lr_scheduler, parts.scaler
    return {
        "format": STATE_FORMAT,
        "train": state_to_json(state),
        "optimizers": tree.members,
        "lr_scheduler": None if scheduler is None else encode_plain(scheduler.state_dict(), where="lr_scheduler"),
        "scaler": None if scaler is None else encode_plain(scaler.state_dict(), where="scaler"),
        "rng": generators,
    }


def _with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _finite_or_none(loss: float | None) -> float | None:
    if loss is not None and not math.isfinite(loss):
        logger.warning("the loss %s is not written into the checkpoint's manifest", loss)
        return None
    return loss
