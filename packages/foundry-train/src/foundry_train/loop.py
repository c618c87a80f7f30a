"""The training loop: batches in, updates out, everything else at its moment.

    start        milestone at step 0, hooks
    every step   batch -> learning rate -> update -> counters -> record -> hooks -> checkpoint if due
    stop         between two micro-batches: the unfinished update is dropped, everything is saved, the run goes on later
    end          hooks, the last checkpoint

A step is complete when its global batch was consumed. With `on_nonfinite: skip`, a batch whose loss or gradient is not
finite is consumed without changing the weights; it counts as a step, so that data order, learning rate and milestones
stay functions of the step alone, and `state.nonfinite_skips` says how many there were.
"""

import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from foundry_config import TrainingConfig, TrainingPlan, parse_duration
from foundry_config.errors import NonFiniteError
from foundry_data.torch_loader import GlobalBatch
from foundry_train.distributed import World
from foundry_train.hooks import Hook, Moment, StepRecord, undisturbed
from foundry_train.memory import memory_use, warn_if_fragmented
from foundry_train.optimizers import OptimizerGroup
from foundry_train.records import RecordWriter, checked_record
from foundry_train.saving import Saved, Saver
from foundry_train.state import TrainState
from foundry_train.step import Outcome, StepResult, Updater
from foundry_train.throughput import Throughput

logger = logging.getLogger(__name__)

LOSS_SMOOTHING = 0.05
MEMORY_SECONDS = 1.0  # asking the allocator for its numbers costs more than a tiny step
SHOWN_SEQUENCES = 16
TIME_IS_UP = "stop_after"
NO_SIGNAL = 2**15  # larger than the number of any signal
END = "end"  # the event that makes a run complete
EXIT_CODE_TIME_IS_UP = 128 + signal.SIGTERM


class LoopEnd(NamedTuple):
    """How the loop ended."""

    first_loss: float | None
    """Of the first update of this process. [nats per token]"""
    final_loss: float | None
    """Of the last update of this process."""
    stopped_by: str | None = None
    """Name of a signal, or `stop_after`."""
    exit_code: int = 0


class StopRequest:
    """Whether to stop, asked between micro-batches: a signal came, or the time is up."""

    def __init__(
        self,
        signal_number: Callable[[], int | None],
        *,
        stop_after_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            signal_number: The signal that came first, or None.
            stop_after_seconds: Time budget, counted from now.
            clock: Monotonic seconds.
        """
        self._signal_number = signal_number
        self._clock = clock
        self._deadline = None if stop_after_seconds is None else clock() + stop_after_seconds

    def __call__(self) -> bool:
        return self._signal_number() is not None or (self._deadline is not None and self._clock() >= self._deadline)

    def reason(self, world: World) -> tuple[str, int]:
        """Name of the cause and exit code, the same on every rank: the signal may have come to one of them only."""
        number = world.smallest(self._signal_number() or NO_SIGNAL)
        if number != NO_SIGNAL:
            return signal.Signals(number).name, 128 + number
        return TIME_IS_UP, EXIT_CODE_TIME_IS_UP


def stop_request(training: TrainingConfig, signal_number: Callable[[], int | None]) -> StopRequest:
    """Build the request for `training.stop_after` and the signals."""
    seconds = None if training.stop_after is None else parse_duration(training.stop_after)
    return StopRequest(signal_number, stop_after_seconds=seconds)


class TrainingLoop:
    """Runs updates until the plan is fulfilled or a stop is asked for."""

    def __init__(
        self,
        *,
        plan: TrainingPlan,
        training: TrainingConfig,
        state: TrainState,
        batches: Iterator[GlobalBatch],
        position: Callable[[], tuple[int, int]],
        model: torch.nn.Module,
        optimizer: OptimizerGroup,
        learning_rate: Callable[[int], float],
        updater: Updater,
        saver: Saver,
        records: RecordWriter,
        throughput: Throughput,
        world: World,
        hooks: Sequence[Hook] = (),
        should_stop: StopRequest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            plan: How long, and where the milestones are.
            training: What to do about numbers that are not finite.
            state: Counters; advanced in place.
            batches: Endless global batches, beginning at the position of `state`.
            position: (epoch, position) of the batch that `batches` will deliver next.
            model: In training mode, on the device.
            optimizer: Gets the learning rate before each update.
            learning_rate: Rate as a function of the updates completed.
            updater: Makes an update of a batch.
            saver: Takes checkpoints.
            records: Receives everything worth writing down.
            throughput: Counts tokens.
            world: Ranks and device.
            hooks: Own code, in this order.
            should_stop: Asked before every batch.
            clock: Monotonic seconds.
        """
        self.state = state
        self._plan = plan
        self._training = training
        self._batches = batches
        self._position = position
        self._model = model
        self._modules = list(model.modules())
        self._optimizer = optimizer
        self._learning_rate = learning_rate
        self._updater = updater
        self._saver = saver
        self._records = records
        self.throughput = throughput
        self._world = world
        self._hooks = hooks
        self._should_stop = should_stop
        self._clock = clock
        self._last_record: StepRecord | None = None
        self._memory_bytes = 0
        self._memory_measured = -MEMORY_SECONDS
        self._warned_of_fragmentation = False

    def run(self) -> LoopEnd:
        """Train until the end of the plan or a stop.

        Raises:
            NonFiniteError: Loss or gradient was not finite and the policy says stop, or the skips are used up.
            MemoryExhaustedError: Out of memory with one sequence at a time.
            StorageError: A checkpoint could not be written.
        """
        first_loss: float | None = None
        self._begin()
        while self.state.step < self._plan.total_steps:
            if self._world.any_says(self._should_stop()):
                return self._stop(first_loss)
            result = self._advance()
            if result.outcome is Outcome.STOPPED:
                return self._stop(first_loss)
            first_loss = result.loss if first_loss is None else first_loss
            self._after_step()
        return self._end(first_loss)

    def _advance(self) -> StepResult:
        """Make one update and count it; a stopped one leaves the counters as they were."""
        batch = next(self._batches)
        rate = self._learning_rate(self.state.step)
        self._optimizer.set_learning_rate(rate)
        micro_batch = self._updater.micro_batch
        result = self._updater.update(batch)
        if result.outcome is Outcome.STOPPED:
            return result
        if self._updater.micro_batch != micro_batch:
            self._records.event("oom", self.state.step + 1, before=micro_batch, after=self._updater.micro_batch)
        if result.outcome is Outcome.NONFINITE:
            self._handle_nonfinite(batch, result)
        self._count(batch, result)
        self._record(rate, batch, result)
        return result

    def _count(self, batch: GlobalBatch, result: StepResult) -> None:
        state = self.state
        state.step += 1
        state.epoch, state.position = self._position()
        state.sequences += batch.sequences
        state.tokens += batch.tokens
        state.words += batch.words
        state.micro_batch = self._updater.micro_batch
        state.overflow_skips += result.overflows
        if result.outcome is Outcome.UPDATED:
            before = result.loss if state.loss_ema is None else state.loss_ema
            state.loss_ema = before + LOSS_SMOOTHING * (result.loss - before)

    def _record(self, rate: float, batch: GlobalBatch, result: StepResult) -> None:
        state, throughput = self.state, self.throughput
        throughput.step(batch.tokens)
        self._last_record = StepRecord(
            step=state.step,
            total_steps=self._plan.total_steps,
            epoch=batch.epoch,
            loss=result.loss,
            lr=rate,
            grad_norm=result.grad_norm,
            tokens=state.tokens,
            words=state.words,
            tokens_per_second=throughput.tokens_per_second,
            tokens_per_second_per_device=throughput.tokens_per_second_per_device,
            mfu=throughput.mfu,
            memory_bytes=self._memory(),
            eta_seconds=throughput.eta_seconds(self._plan.total_steps - state.step),
            micro_batch=self._updater.micro_batch,
            skipped=result.outcome is Outcome.NONFINITE,
        )
        self._records.step(self._last_record)
        if result.overflows:
            self._records.event("overflow_skip", state.step, replays=result.overflows)

    def _begin(self) -> None:
        if self.state.step > 0:
            self._records.event("resume", self.state.step)
        self._call_hooks("on_start")
        if self.state.step == 0:
            self._save_if_due()
        self.throughput.resume_clock()

    def _after_step(self) -> None:
        step = self.state.step
        self._call_hooks("on_step", [hook for hook in self._hooks if hook.is_due(step)])
        self._save_if_due()

    def _save_if_due(self) -> None:
        """Take the checkpoint that is due; what it stands for is measured and written down before."""
        step = self.state.step
        kind = self._saver.due(step)
        if kind is None:
            return
        if self._saver.is_milestone(step):
            self._call_hooks("on_checkpoint")
        self._records.flush()
        self._note_checkpoint(self._saver.save(self.state, self._last_loss(), kind))

    def _end(self, first_loss: float | None) -> LoopEnd:
        """Measure, note the end, save; a stop in the middle of measuring leaves that to the next process."""
        try:
            self._call_hooks("on_end")
            self._call_hooks("on_checkpoint")
        except Exception:
            if self._world.size == 1:  # else the others, who have no hooks, are elsewhere by now
                self._save_last()  # what was trained is not lost to an error in what looks at it
            raise
        if self._world.any_says(self._should_stop()):
            return self._stop(first_loss)
        self._records.event(END, self.state.step)
        self._save_last()
        return LoopEnd(first_loss, self._last_loss())

    def _handle_nonfinite(self, batch: GlobalBatch, result: StepResult) -> None:
        """Count a skip, or refuse to go on; the weights are those before this batch either way."""
        step, training = self.state.step + 1, self._training
        what = f"loss {result.loss} and gradient norm {result.grad_norm} at step {step}"
        sequences = shown_ids(batch.sequence_ids.tolist())
        if training.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{what}, on sequences {sequences} of epoch {batch.epoch}; the weights were not changed. "
                f"{self._last_good()} {self._advice()}"
            )
        self.state.nonfinite_skips += 1
        if self.state.nonfinite_skips > training.max_nonfinite_skips:
            raise NonFiniteError(
                f"{what}, on sequences {sequences} of epoch {batch.epoch}; "
                f"training.max_nonfinite_skips: {training.max_nonfinite_skips} updates were left out already. "
                f"{self._last_good()} Lower training.learning_rate"
            )
        logger.warning("%s, on sequences %s: this update is left out", what, sequences)
        self._records.event("nonfinite_skip", step, sequences=sequences, epoch=batch.epoch)

    def _advice(self) -> str:
        training = self._training
        clip = "" if training.max_grad_norm else "clip with training.max_grad_norm: 1.0, "
        advice = (
            f"Lower training.learning_rate, {clip}or set training.on_nonfinite: skip; that is another experiment, with "
            "a training.output_dir of its own"
        )
        if training.precision == "fp16":
            advice += ". Or go on with training.precision: bf16 and --allow-numeric-drift, which overflows less"
        return advice

    def _last_good(self) -> str:
        last = self._saver.last
        return f"The last checkpoint of this process is step {last.step}." if last else "No checkpoint was taken yet."

    def _stop(self, first_loss: float | None) -> LoopEnd:
        """Save everything, so that the next process goes on here."""
        name, exit_code = self._should_stop.reason(self._world)
        logger.info("stopping after step %d (%s): saving", self.state.step, name)
        self._save_last()
        self._records.event("stop", self.state.step, reason=name)
        self._records.flush()
        return LoopEnd(first_loss, self._last_loss(), name, exit_code)

    def _save_last(self) -> None:
        self._records.flush()
        already = self._saver.last
        saved = self._saver.save_last(self.state, self._last_loss())
        if saved is not already:
            self._note_checkpoint(saved)
        self._records.flush()

    def _note_checkpoint(self, saved: Saved) -> None:
        details = {"checkpoint": saved.kind, "label": saved.label, "milestone": saved.milestone}
        self._records.event("checkpoint", saved.step, **details)
        self._records.flush()
        self.throughput.resume_clock()

    def _call_hooks(self, name: str, hooks: Sequence[Hook] | None = None) -> None:
        """Let hooks look, without letting them change random generators or modes."""
        hooks = self._hooks if hooks is None else hooks
        if not hooks:
            return
        moment = Moment(self._last_record, self.state.step, self._model, self._log)
        with undisturbed(self._modules, self._world.device):
            for hook in hooks:
                getattr(hook, name)(moment)
        self.throughput.resume_clock()

    def _log(self, record: dict[str, Any]) -> None:
        self._records.log({**checked_record(record), "step": self.state.step})

    def _last_loss(self) -> float | None:
        record = self._last_record
        return None if record is None or record.skipped else record.loss

    def _memory(self) -> int:
        now = self._clock()
        if now - self._memory_measured >= MEMORY_SECONDS:
            self._memory_measured = now
            use = memory_use(self._world.device)
            self._memory_bytes = use.peak if self._world.device.type == "cuda" else use.used
            if not self._warned_of_fragmentation:
                self._warned_of_fragmentation = warn_if_fragmented(use)
        return self._memory_bytes


def shown_ids(ids: Iterable[int]) -> str:
    """Write a few sequence ids, and how many more there are.

    >>> shown_ids([3, 1, 2])
    '3, 1, 2'
    """
    ids = list(ids)
    more = f" and {len(ids) - SHOWN_SEQUENCES} more" if len(ids) > SHOWN_SEQUENCES else ""
    return ", ".join(map(str, ids[:SHOWN_SEQUENCES])) + more
