"""The plan of a run as pure arithmetic: steps, warm-up and checkpoints, known before anything heavy is loaded.

10,650 sequences in global batches of 32   ->  333 steps per epoch (the last of them short)
epochs: 2                                  ->  666 steps
train_words: 5_000_000                     ->  the first step at which 5,000,000 words have been seen
"""

import functools
from collections.abc import Callable

from msgspec import Struct

from foundry_config.checkpoint_schedule import Counter, Milestone, Points, RunShape, automatic, join, points_of
from foundry_config.durations import parse_duration
from foundry_config.errors import ConfigError
from foundry_config.schema import ExperimentConfig, TrainingConfig
from foundry_config.shares import steps_of

__all__ = ["CorpusCounts", "Milestone", "TrainingPlan", "parse_duration", "plan_training"]

FOREVER = 2**53  # steps; a search beyond finds nothing


class CorpusCounts(Struct, frozen=True):
    """What the training split holds.

    `words_after(n)` gives the words in the first n sequences that training consumes, counted over all epochs in their
    order; without it words are taken to be spread evenly, and a plan that depends on them is marked as an estimate.
    """

    sequences: int
    tokens: int
    words: int
    words_after: Callable[[int], int] | None = None


class Pace(Struct, frozen=True):
    """How a run moves through its corpus."""

    sequences: int
    """Sequences that one epoch consumes, those of a dropped last batch left out."""
    global_batch: int
    """Sequences of one step."""
    steps_per_epoch: int
    tokens: int
    """Tokens in the corpus."""
    corpus_sequences: int

    def sequences_after(self, step: int) -> int:
        """Return the sequences consumed by the first `step` updates."""
        epochs, rest = divmod(step, self.steps_per_epoch)
        return epochs * self.sequences + min(rest * self.global_batch, self.sequences)

    def tokens_after(self, step: int) -> int:
        """Return the tokens consumed by the first `step` updates; exact where all sequences are full."""
        return self.sequences_after(step) * self.tokens // self.corpus_sequences


class TrainingPlan(Struct, frozen=True):
    """How long a run is and what it saves. `msgspec.to_builtins` makes it plain data for JSON."""

    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    global_batch: int
    """Sequences of one step."""
    tokens_per_step: int
    """Tokens of a full step, padding included."""
    epochs: float
    """Passes over the corpus, at the last step."""
    checkpoints: tuple[Milestone, ...]
    estimated: bool
    """Whether a number above rests on evenly spread words or tokens."""
    pace: Pace

    def sequences_after(self, step: int) -> int:
        """Return the sequences consumed by the first `step` updates."""
        return self.pace.sequences_after(step)

    def tokens_after(self, step: int) -> int:
        """Return the tokens consumed by the first `step` updates; exact where all sequences are full."""
        return self.pace.tokens_after(step)

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 0, whose sequences the `step`-th update sees; 0 for step 0."""
        return max(step - 1, 0) // self.steps_per_epoch


def plan_training(config: ExperimentConfig, corpus: CorpusCounts) -> TrainingPlan:
    """Return the plan of the run that `config` describes on `corpus`.

    Raises:
        ConfigError: No step fits, limits contradict each other, or warm-up or schedule do not fit the run.
    """
    training = config.training
    pace = _pace(config, corpus)
    words = _word_counter(pace, corpus)
    total = _total_steps(training, pace, words)
    shape = RunShape(
        steps_per_epoch=pace.steps_per_epoch,
        total_steps=total,
        tokens=_counter("tokens", pace.tokens_after, total),
        words=_counter("words", words, total),
    )
    _check_explicit_steps(training, total)
    return TrainingPlan(
        steps_per_epoch=pace.steps_per_epoch,
        total_steps=total,
        warmup_steps=_warmup_steps(training, total),
        global_batch=pace.global_batch,
        tokens_per_step=pace.global_batch * config.data.max_sequence_length,
        epochs=total / pace.steps_per_epoch,
        checkpoints=join(_points(training, shape), total),
        estimated=_is_estimated(config, corpus),
        pace=pace,
    )


def first_step_reaching(count_after: Callable[[int], int], target: int, *, limit: int) -> int | None:
    """Return the first step up to `limit` at which the never falling `count_after(step)` is at least `target`."""
    if count_after(limit) < target:
        return None
    low, high = 0, limit
    while low < high:
        middle = (low + high) // 2
        if count_after(middle) < target:
            low = middle + 1
        else:
            high = middle
    return low


def _pace(config: ExperimentConfig, corpus: CorpusCounts) -> Pace:
    global_batch = config.data.batch_size * config.training.gradient_accumulation_steps
    if corpus.sequences < 1:
        raise ConfigError(
            f"data.max_sequence_length: the training split has {corpus.tokens:,} tokens, "
            f"not one sequence of {config.data.max_sequence_length:,}; shorten the sequences or add text"
        )
    steps, rest = divmod(corpus.sequences, global_batch)
    if config.data.drop_last and steps == 0:
        raise ConfigError(
            f"data.drop_last: the training split has {corpus.sequences:,} sequences, fewer than one global batch of "
            f"{global_batch:,}, so that every epoch is empty; set drop_last: false or make the batch smaller"
        )
    short = rest > 0 and not config.data.drop_last
    return Pace(
        sequences=corpus.sequences - (rest if config.data.drop_last else 0),
        global_batch=global_batch,
        steps_per_epoch=steps + short,
        tokens=corpus.tokens,
        corpus_sequences=corpus.sequences,
    )


def _word_counter(pace: Pace, corpus: CorpusCounts) -> Callable[[int], int]:
    """Return the number of words after a step; counted once for each step, as searches ask again and again."""
    words_after = corpus.words_after

    @functools.lru_cache(maxsize=100_000)
    def count(step: int) -> int:
        sequences = pace.sequences_after(step)
        return words_after(sequences) if words_after else corpus.words * sequences // corpus.sequences

    return count


def _counter(unit: str, after: Callable[[int], int], total: int) -> Counter:
    return Counter(unit, after, lambda count: first_step_reaching(after, count, limit=total))


def _total_steps(training: TrainingConfig, pace: Pace, words: Callable[[int], int]) -> int:
    wanted = _wanted_steps(training, pace, words)
    epochs = 1.0 if training.epochs is None and wanted is None else training.epochs
    if epochs is None:
        assert wanted is not None, "one of the two is given"
        return wanted
    # exact in decimals: 0.1 epochs of 10 steps is 1 step, though the float 0.1 is a little more than a tenth
    allowed = steps_of(epochs, pace.steps_per_epoch)
    if training.train_steps is not None and training.train_steps > allowed:
        raise ConfigError(
            f"training.train_steps: {training.train_steps:,} steps do not fit into epochs: {epochs:g}, which end after "
            f"{allowed:,} steps ({pace.steps_per_epoch:,} per epoch); raise epochs or leave one of the two out"
        )
    return allowed if wanted is None else min(wanted, allowed)


def _wanted_steps(training: TrainingConfig, pace: Pace, words: Callable[[int], int]) -> int | None:
    if training.train_steps is not None:
        return training.train_steps
    if training.train_tokens is not None:
        return _steps_for(pace.tokens_after, training.train_tokens, "tokens")
    if training.train_words is not None:
        return _steps_for(words, training.train_words, "words")
    return None


def _steps_for(count_after: Callable[[int], int], target: int, unit: str) -> int:
    limit = 1
    while count_after(limit) < target:
        limit *= 2
        if limit > FOREVER:
            raise ConfigError(f"training.train_{unit}: the corpus has no {unit} to reach {target:,}")
    steps = first_step_reaching(count_after, target, limit=limit)
    assert steps is not None, "the limit reaches the target"
    return steps


def _warmup_steps(training: TrainingConfig, total: int) -> int:
    steps = training.warmup_steps
    if steps is None:
        steps = steps_of(training.warmup_ratio or 0.0, total)
    if steps > total:
        raise ConfigError(
            f"training.warmup_steps: {steps:,} steps of warm-up are longer than the run of {total:,}; lower them or "
            "train longer"
        )
    if training.lr_schedule == "wsd":
        decay = steps_of(training.decay_ratio, total)
        if steps + decay > total and total > 2:
            raise ConfigError(
                f"training.decay_ratio: {steps:,} steps of warm-up and {decay:,} of decay are longer than the run of "
                f"{total:,}; lower one of the two"
            )
    return steps


def _check_explicit_steps(training: TrainingConfig, total: int) -> None:
    beyond = [item for item in training.checkpoint_schedule or () if isinstance(item, int) and item > total]
    if beyond:
        raise ConfigError(
            f"training.checkpoint_schedule: step {beyond[0]:,} lies beyond the end of the run at {total:,}; "
            "leave it out or train longer"
        )


def _points(training: TrainingConfig, shape: RunShape) -> Points:
    if training.auto_generate_checkpoints:
        yield from automatic(training, shape)
    for item in training.checkpoint_schedule or ():
        yield from points_of(item, shape)


def _is_estimated(config: ExperimentConfig, corpus: CorpusCounts) -> bool:
    entries = config.training.checkpoint_schedule or ()
    names = [name for entry in entries for name in (entry if isinstance(entry, dict) else (str(entry),))]
    by_words = config.training.train_words is not None or any("words" in n or "babylm" in n for n in names)
    by_tokens = config.training.train_tokens is not None or "every_tokens" in names
    uneven = corpus.tokens != corpus.sequences * config.data.max_sequence_length
    return (by_words and corpus.words_after is None) or (by_tokens and uneven)
