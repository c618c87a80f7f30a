"""What a run came to, in one record, read from what the run has written: for people, for scripts, as summary.json."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from foundry_config import ExperimentConfig, TrainingPlan
from foundry_config.spoken_numbers import speakable
from foundry_data import fs
from foundry_train.checkpoint_list import file_problems
from foundry_train.checkpointing import CheckpointManager
from foundry_train.evaluation_hook import TEST
from foundry_train.memory import peak_resident_bytes
from foundry_train.metrics_log import read_metrics

logger = logging.getLogger(__name__)

SUMMARY_NAME = "summary.json"


class TrainingSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a run, or of the part of it that this process did."""

    experiment_name: str
    run_dir: Path
    steps: int
    """Updates completed since the start of the run."""
    total_steps: int
    epochs: float
    """Passes over the data, of the whole plan."""
    first_loss: float | None = None
    """Loss of the first update of the run. [nats per token]"""
    final_loss: float | None = None
    """Loss of the last update. [nats per token]"""
    test_loss_before: float | None = None
    """On the held-out split with untrained weights. [nats per token]"""
    test_loss_after: float | None = None
    """On the held-out split, the newest. [nats per token]"""
    test_step: int | None = None
    """Step at which `test_loss_after` and the three that follow were measured."""
    test_perplexity: float | None = None
    bits_per_byte: float | None = None
    bits_per_word: float | None = None
    tokens: int = 0
    words: int = 0
    tokens_per_second: float = 0.0
    """Average of this process, over all ranks; of the last steps for a run that was complete already."""
    seconds: float = 0.0
    """Wall-clock time of this process, from the start of `train()`."""
    peak_memory_bytes: int = 0
    checkpoint: Path | None = None
    """The newest full checkpoint."""
    checkpoints: int = 0
    """Number of checkpoints in the run directory."""
    sample: str | None = None
    """The newest text sample, prompt included."""
    resumed_from: int | None = None
    """Step at which this process continued."""
    already_done: bool = False
    """Nothing was left to do."""
    stopped_by: str | None = None
    """Signal or time budget that ended this process before the run was complete."""
    exit_code: int = 0
    nonfinite_skips: int = 0
    """Updates that were left out because loss or gradient was not finite."""


def summarize(
    config: ExperimentConfig, run_dir: Path, plan: TrainingPlan, manager: CheckpointManager, **process: Any
) -> TrainingSummary:
    """Sum a run up from metrics.jsonl and its checkpoints.

    Args:
        config: The experiment.
        run_dir: Its directory.
        plan: Its plan.
        manager: Knows its checkpoints.
        process: Fields that only the process knows: `seconds`, `resumed_from`, `stopped_by`, `exit_code` ...
    """
    records = read_metrics(run_dir / "metrics.jsonl")
    steps = [record for record in records if record.get("kind") == "step"]
    tests = [record for record in records if record.get("kind") == "evaluation" and record.get("suite") == TEST]
    samples = [record for record in records if record.get("kind") == "sample"]
    skips = [record for record in records if record.get("event") == "nonfinite_skip"]
    last: Mapping[str, Any] = steps[-1] if steps else {}
    infos = manager.list()
    latest = manager.find_latest()
    fields: dict[str, Any] = {
        "first_loss": _loss(steps[:1]),
        "final_loss": _loss(steps[-1:]),
        "tokens": last.get("tokens", 0),
        "words": last.get("words", 0),
        "tokens_per_second": last.get("tokens_per_second", 0.0),
        "peak_memory_bytes": max([record.get("memory_bytes", 0) for record in steps], default=peak_resident_bytes()),
        "checkpoint": latest.path if latest else None,
        "checkpoints": len(infos),
        "sample": samples[-1]["prompt"] + samples[-1]["text"] if samples else None,
        "nonfinite_skips": len(skips),
        **_test_fields(tests),
    }
    return TrainingSummary(
        experiment_name=config.experiment_name,
        run_dir=run_dir,
        steps=last.get("step", 0),
        total_steps=plan.total_steps,
        epochs=plan.epochs,
        **(fields | process),
    )


def is_complete(run_dir: Path, plan: TrainingPlan, manager: CheckpointManager) -> bool:
    """Whether the run has reached the end of its plan, said so, and still has the model it ended with.

    The last checkpoint is hashed: a damaged one is named, and the run goes on from the one before, to the same bits.
    """
    try:
        status = json.loads((run_dir / "status.json").read_bytes())
    except (OSError, ValueError):
        return False
    if not isinstance(status, dict) or status.get("ended_at_step") != plan.total_steps:
        return False
    latest = manager.find_latest()
    if latest is None or latest.manifest is None or latest.step != plan.total_steps:
        return False
    problems = file_problems(latest.path, latest.manifest)
    if problems:
        logger.warning("the run was complete, but %s is not: %s", latest.path.name, "; ".join(problems))
    return not problems


def write_summary(summary: TrainingSummary) -> None:
    """Write summary.json into the run directory; a disk that refuses is a warning, since the run itself is saved."""
    path = summary.run_dir / SUMMARY_NAME
    values = speakable(msgspec.to_builtins(summary, enc_hook=str))
    try:
        fs.write_atomic(path, json.dumps(values, indent=2, allow_nan=False).encode() + b"\n")
    except OSError as error:
        logger.warning("%s could not be written: %s", path, error.strerror or error)


def _test_fields(tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not tests:
        return {}
    first, last = tests[0], tests[-1]
    return {
        "test_loss_before": _number(first.get("loss")) if first.get("step") == 0 else None,
        "test_loss_after": _number(last.get("loss")),
        "test_step": last.get("step"),
        "test_perplexity": _number(last.get("perplexity")),
        "bits_per_byte": _number(last.get("bits_per_byte")),
        "bits_per_word": _number(last.get("bits_per_word")),
    }


def _loss(records: Sequence[Mapping[str, Any]]) -> float | None:
    return _number(records[0].get("loss")) if records else None


def _number(value: Any) -> float | None:
    """A number of metrics.jsonl, where "nan" and "inf" stand for those that JSON has no words for."""
    return float(value) if isinstance(value, float | int) or value in ("nan", "inf", "-inf") else None
