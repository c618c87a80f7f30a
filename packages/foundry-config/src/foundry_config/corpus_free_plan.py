"""The part of a plan that needs no corpus: what the config alone says about length, warm-up and checkpoints.

    train_steps: 1000    ->  1,000 steps; at most 1,000 full steps of tokens
    train_tokens: 1e9    ->  at least so many steps as full ones need: the last step of an epoch is shorter
    train_words, epochs  ->  nothing before the corpus is there

It is the plan on a corpus that never ends, without all that asks for words or for the end of an epoch.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from foundry_config.checkpoint_schedule import Milestone
from foundry_config.loading import replace_fields
from foundry_config.plan import FOREVER, CorpusCounts, plan_training
from foundry_config.schema import ExperimentConfig, TrainingConfig

FROM_STEPS = frozenset({"every_steps", "every_tokens", "powers_of_two", "pythia"})


class CorpusFreePlan(Struct, frozen=True):
    """What is known of a run before its corpus is; None is what is not."""

    global_batch: int
    """Sequences of one step."""
    tokens_per_step: int
    """Tokens of a full step, padding included."""
    total_steps: int | None
    """Exact from `train_steps`; from `train_tokens` the least there can be."""
    warmup_steps: int | None
    tokens: int | None
    """Tokens seen if all steps are full: from `train_steps` the most there can be. Padding included."""
    words: int | None
    checkpoints: tuple[Milestone, ...]
    """Those of the schedule that steps and tokens decide."""
    unplanned: tuple[str, ...]
    """Entries of the schedule that wait for the corpus, as a person writes them."""


def plan_without_corpus(config: ExperimentConfig) -> CorpusFreePlan:
    """Return what the config alone says about its run.

    Raises:
        ConfigError: Warm-up or schedule do not fit the run.
    """
    data, training = config.data, config.training
    global_batch = data.batch_size * training.gradient_accumulation_steps
    tokens_per_step = global_batch * data.max_sequence_length
    entries = training.checkpoint_schedule or ()
    if not _length_is_known(training):
        steps = sorted({entry for entry in entries if isinstance(entry, int)})  # beyond the run they are refused
        return CorpusFreePlan(
            global_batch=global_batch,
            tokens_per_step=tokens_per_step,
            total_steps=None,
            warmup_steps=training.warmup_steps,
            tokens=None,
            words=training.train_words if training.epochs is None else None,
            checkpoints=tuple(Milestone(step, None, (f"step {step:,}" if step else "start",)) for step in steps),
            unplanned=_shown(training, [entry for entry in entries if not isinstance(entry, int)]),
        )
    known = [entry for entry in entries if _name(entry) in FROM_STEPS]
    changes = {
        "training.checkpoint_schedule": known or None,
        "training.auto_generate_checkpoints": False,
        "training.epochs": None,  # it only checks that the steps fit
    }
    endless = CorpusCounts(sequences=FOREVER, tokens=FOREVER * data.max_sequence_length, words=0)
    plan = plan_training(replace_fields(config, changes), endless)
    return CorpusFreePlan(
        global_batch=global_batch,
        tokens_per_step=tokens_per_step,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        tokens=plan.total_steps * tokens_per_step,
        words=None,
        checkpoints=plan.checkpoints,
        unplanned=_shown(training, [entry for entry in entries if entry not in known]),
    )


def _length_is_known(training: TrainingConfig) -> bool:
    """Steps must fit into the epochs, or training refuses; tokens end with whichever comes first."""
    return training.train_steps is not None or (training.train_tokens is not None and training.epochs is None)


def _name(entry: int | str | Mapping[str, Any]) -> str:
    """Return the spacing of an entry; an explicit step is one that steps decide, too."""
    if isinstance(entry, int):
        return "every_steps"
    return entry if isinstance(entry, str) else next(iter(entry))


def _shown(training: TrainingConfig, entries: Any) -> tuple[str, ...]:
    automatic = ["auto_generate_checkpoints"] if training.auto_generate_checkpoints else []
    return (*automatic, *(_written(entry) for entry in entries))


def _written(entry: int | str | Mapping[str, Any]) -> str:
    if not isinstance(entry, Mapping):
        return str(entry)
    return "{" + ", ".join(f"{key}: {value}" for key, value in entry.items()) + "}"
