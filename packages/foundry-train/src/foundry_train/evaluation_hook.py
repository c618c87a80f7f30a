"""Measure the model while it trains: held-out loss, minimal pairs, and a sample of its text.

    when                       held-out loss, minimal pairs         text sample
    before the first update    yes                                  no
    every N steps              evaluation.every_steps               evaluation.sample_every_steps
    at a milestone             evaluation.at_checkpoints            no
    after the last update      yes                                  yes

Nothing here changes a training bit: the loop restores random generators and modes around every hook. A stop that is
asked for in the middle of an evaluation ends it without a result.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from foundry_config import EvaluationConfig
from foundry_model.corpus_loss import CorpusScore
from foundry_model.evaluation import SequenceBatch, evaluate_minimal_pairs, evaluate_sequences
from foundry_model.generation import generate_text
from foundry_model.out_of_memory import is_out_of_memory
from foundry_train.hooks import Hook, Moment
from foundry_train.memory import release_memory

logger = logging.getLogger(__name__)

TEST = "test"  # suite of the held-out split
PAIRS = "minimal_pairs"
SAMPLE_TEMPERATURE = 0.8
SAMPLE_TOP_K = 40


class HeldOut(NamedTuple):
    """The sequences that an evaluation reads, and the size of their text."""

    batches: Callable[[], Iterable[SequenceBatch]]
    """Gives the same batches every time."""
    words: int | None = None
    bytes: int | None = None


class Interrupted(Exception):
    """A stop was asked for during an evaluation."""


Suite = Callable[[torch.nn.Module], Mapping[str, Any]]


class EvaluationHook(Hook):
    """Runs suites and samples at their moments, and remembers the held-out results for the summary."""

    def __init__(
        self,
        settings: EvaluationConfig,
        suites: Mapping[str, Suite],
        sampler: Callable[[torch.nn.Module, int], list[dict[str, str]]],
        *,
        total_steps: int,
        recorded: Iterable[Mapping[str, Any]] = (),
        message: Callable[[str], None] = lambda text: logger.info("%s", text),
    ) -> None:
        """
        Args:
            settings: When.
            suites: Measures by name; each returns values to record.
            sampler: Returns records with `prompt` and `text` for (model, step).
            total_steps: Where the run ends.
            recorded: Records that metrics.jsonl has of the step at which this process goes on: a stop after the first
                or the last evaluation has this process repeat it, and it should not stand there twice.
            message: Receives one line about each result.
        """
        self._settings = settings
        self._suites = suites
        self._sampler = sampler
        self._total_steps = total_steps
        self._recorded = {_key(record) for record in recorded}
        self._message = message
        self._evaluated: int | None = None
        self.before: Mapping[str, Any] = {}
        """Held-out values of the untrained model."""
        self.after: Mapping[str, Any] = {}
        """Held-out values of the last evaluation."""
        self.sample: str | None = None
        """The newest text sample."""

    def on_start(self, moment: Moment) -> None:
        if moment.step == 0:
            self._evaluate(moment)
            self.before = self.after

    def is_due(self, step: int) -> bool:
        return step < self._total_steps and any(
            every is not None and step % every == 0
            for every in (self._settings.every_steps, self._settings.sample_every_steps)
        )

    def on_step(self, moment: Moment) -> None:
        every, sample_every = self._settings.every_steps, self._settings.sample_every_steps
        if every is not None and moment.step % every == 0:
            self._evaluate(moment)
        if sample_every is not None and moment.step % sample_every == 0:
            self._sample(moment)

    def on_checkpoint(self, moment: Moment) -> None:
        if self._settings.at_checkpoints:
            self._evaluate(moment)

    def on_end(self, moment: Moment) -> None:
        self._evaluate(moment)
        self._sample(moment)

    def _evaluate(self, moment: Moment) -> None:
        if self._evaluated == moment.step:
            return
        for name, suite in self._suites.items():
            try:
                values = suite(moment.model)
            except Interrupted:
                return
            self._record(moment, name, values)
        self._evaluated = moment.step

    def _record(self, moment: Moment, suite: str, values: Mapping[str, Any]) -> None:
        if suite != PAIRS:
            self._log(moment, {"kind": "evaluation", "suite": suite, **values})
        else:
            for item, accuracy in values.items():
                self._log(moment, {"kind": "evaluation", "suite": suite, "item": item, "accuracy": accuracy})
        if suite == TEST:
            self.after = values
        self._message(describe_values(suite, moment.step, values))

    def _sample(self, moment: Moment) -> None:
        try:
            records = self._sampler(moment.model, moment.step)
        except Exception as error:  # what a model does with a text of its own making is no reason to end its training
            logger.warning("step %d: no text sample (%s: %s)", moment.step, type(error).__name__, error)
            return
        for record in records:
            self._log(moment, {"kind": "sample", **record})
            self.sample = record["prompt"] + record["text"]

    def _log(self, moment: Moment, record: dict[str, Any]) -> None:
        if _key({**record, "step": moment.step}) not in self._recorded:
            moment.log(record)


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two records of evaluations or samples the same one."""
    return tuple(record.get(name) for name in ("step", "kind", "suite", "item", "prompt"))


def held_out_suite(held_out: HeldOut, *, batch_size: int, should_stop: Callable[[], bool]) -> Suite:
    """Loss, perplexity, bits per byte and bits per word on held-out sequences.

    Where memory is too small for `batch_size` sequences at a time, half of them are taken from then on.
    """
    size = batch_size

    def measure(model: torch.nn.Module) -> Mapping[str, Any]:
        nonlocal size
        while (score := attempt(model)) is None:
            logger.warning("out of memory: evaluations read %d instead of %d sequences at a time", size // 2, size)
            size //= 2
            release_memory(next(model.parameters()).device)
        return score.values() | {"tokens": score.tokens}

    def attempt(model: torch.nn.Module) -> CorpusScore | None:
        batches = interruptible(held_out.batches(), should_stop)
        try:
            return evaluate_sequences(model, batches, batch_size=size, words=held_out.words, size=held_out.bytes)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            return None  # the error holds on to what the model had allocated; it ends here

    return measure


def minimal_pair_suite(tokenizer: Any, paths: Sequence[str], *, should_stop: Callable[[], bool]) -> Suite:
    """Accuracies on the files of minimal pairs, one file at a time."""

    def measure(model: torch.nn.Module) -> Mapping[str, Any]:
        if should_stop():
            raise Interrupted
        return evaluate_minimal_pairs(model, tokenizer, paths)

    return measure


def text_sampler(
    tokenizer: Any, settings: EvaluationConfig, *, seed: int
) -> Callable[[torch.nn.Module, int], list[dict[str, str]]]:
    """Return a function that continues the prompts of the config, with randomness that depends on seed and step."""

    def sample(model: torch.nn.Module, step: int) -> list[dict[str, str]]:
        if not settings.sample_tokens or not settings.sample_prompts:
            return []
        texts = generate_text(
            model,
            tokenizer,
            list(settings.sample_prompts),
            max_new_tokens=settings.sample_tokens,
            temperature=SAMPLE_TEMPERATURE,
            top_k=SAMPLE_TOP_K,
            seed=seed + step,
        )
        return [{"prompt": prompt, "text": text} for prompt, text in zip(settings.sample_prompts, texts, strict=True)]

    return sample


def interruptible(batches: Iterable[SequenceBatch], should_stop: Callable[[], bool]) -> Iterator[SequenceBatch]:
    """Pass batches on until a stop is asked for.

    Raises:
        Interrupted: A stop was asked for.
    """
    for batch in batches:
        if should_stop():
            raise Interrupted
        yield batch


def describe_values(suite: str, step: int, values: Mapping[str, Any]) -> str:
    """Put the values of a suite into one line.

    >>> describe_values("test", 100, {"loss": 3.21987, "perplexity": 25.02})
    'step 100: test loss 3.22, perplexity 25.02'
    """
    shown = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
    return f"step {step}: {suite} {', '.join(shown)}"
