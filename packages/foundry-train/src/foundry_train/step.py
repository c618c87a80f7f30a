"""One optimizer update over one global batch, in as many micro-batches as memory asks for.

    global batch [n, T]  --cut-->  micro-batches [m, T]   loss_sum / targets of the global batch -> backward, each
                                   sum of gradients over micro-batches and ranks = gradient of the exact mean
                                   clip -> one read of (loss, norm) on the host -> update, skip or stop

Nothing is stepped on unless loss and norm are finite. On CUDA the host does not wait to know: the kernel of AdamW looks
on the device, and leaves everything as it is if they are not. Whatever goes wrong before that point leaves the weights,
buffers, the optimizer and the random generators as they were, so that the same batch can be replayed: with half the
micro-batch after an out-of-memory error, with half the loss scale after an overflow in fp16, or by the next process
after a stop.
"""

import logging
import math
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foundry_config.errors import MemoryExhaustedError
from foundry_data.torch_loader import GlobalBatch
from foundry_model.out_of_memory import is_out_of_memory
from foundry_train.bf16_weights import Bf16Weights
from foundry_train.distributed import World
from foundry_train.fused_adamw import FusedAdamW
from foundry_train.memory import release_memory
from foundry_train.optimizers import OptimizerGroup, trainable
from foundry_train.precision import Precision
from foundry_train.rollback import Rollback

logger = logging.getLogger(__name__)

SMALLEST_SCALE = 1.0  # an fp16 gradient that overflows even unscaled is not the scaler's to cure
LossFunction = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


class Outcome(Enum):
    """How an update ended."""

    UPDATED = "updated"
    NONFINITE = "nonfinite"
    """Loss or gradient is NaN or infinite; nothing was changed."""
    STOPPED = "stopped"
    """A stop was asked for before the update was made; nothing was changed."""


class StepResult(NamedTuple):
    """Numbers of one update."""

    outcome: Outcome
    loss: float
    """Mean over the target tokens of the global batch. [nats per token]"""
    grad_norm: float
    """Before clipping."""
    overflows: int = 0
    """Replays with a smaller loss scale."""


class _Attempt(NamedTuple):
    loss_sum: Tensor
    out_of_memory: bool
    stopped: bool


class Updater:
    """Makes updates; keeps the micro-batch size, which an out-of-memory error halves."""

    def __init__(
        self,
        loss_function: LossFunction,
        model: nn.Module,
        optimizer: OptimizerGroup,
        *,
        world: World,
        precision: Precision,
        micro_batch: int,
        max_grad_norm: float | None,
        should_stop: Callable[[], bool] = lambda: False,
        bf16_weights: Bf16Weights | None = None,
    ) -> None:
        """
        Args:
            loss_function: `TokenLoss` or the like: (input_ids, labels, position_ids, attention_mask) -> (sum, count).
            model: Holds the parameters.
            optimizer: Updates them; its learning rate is set by the caller.
            world: Ranks and device.
            precision: Autocast and loss scaling.
            micro_batch: Sequences per forward pass and rank.
            max_grad_norm: Clip to this global norm; None or 0 clips nothing.
            should_stop: Polled between micro-batches.
            bf16_weights: What the loss computes with, where that is not `model`.
        """
        self.micro_batch = micro_batch
        self._loss_function = loss_function
        self._optimizer = optimizer
        held = optimizer.held()
        self._parameters = [parameter for parameter in trainable(model) if id(parameter) in held]
        self._untouched = [parameter for parameter in trainable(model) if id(parameter) not in held]
        self._world = world
        self._precision = precision
        self._max_grad_norm = max_grad_norm or math.inf
        self._should_stop = should_stop
        self._bf16_weights = bf16_weights
        self._said_no_gradient = False
        self._rollback = Rollback(model, world.device)
        self._on_host = _HostCopy(world.device)
        self._decides_on_device = decides_on_device(optimizer, world.device) and precision.scaler is None

    def update(self, batch: GlobalBatch) -> StepResult:
        """Make one update over `batch`, of which this rank holds its share.

        Raises:
            MemoryExhaustedError: Out of memory with one sequence at a time, or outside the forward and backward pass.
        """
        self._rollback.mark()
        overflows = 0
        while True:
            result = self._attempt(batch)
            if result.outcome is Outcome.UPDATED:
                self._rollback.settle()
            elif result.outcome is Outcome.NONFINITE:
                self._rollback.buffers_back()
            if result.outcome is not Outcome.NONFINITE or not self._scale_is_to_blame(result):
                return result._replace(overflows=overflows)
            overflows += 1
            self._rollback.back()

    def gradients(self, batch: GlobalBatch) -> float:
        """Leave the gradient of the exact mean in `.grad`, unclipped, and return that mean (nats per token)."""
        self._drop_gradients()
        attempt = self._forward_backward(batch)
        self._world.sum_gradients(self._parameters)
        return float(attempt.loss_sum) / max(1, batch.target_tokens)

    def _attempt(self, batch: GlobalBatch) -> StepResult:
        """Forward, backward, and the update if everything is finite; halves the micro-batch until it fits."""
        while True:
            self._drop_gradients()
            attempt = self._forward_backward(batch)
            loss_sum, out_of_memory, stopped = self._agree(attempt)
            if not out_of_memory and not stopped:
                return self._apply(batch, loss_sum)
            self._drop_gradients()
            self._rollback.back()
            if stopped:
                return StepResult(Outcome.STOPPED, math.nan, math.nan)
            self._halve(len(batch.input_ids))

    def _drop_gradients(self) -> None:
        """Drop all gradients, also those of parameters that no optimizer holds, which else would add up for ever."""
        self._optimizer.zero_grad()
        for parameter in self._untouched:
            parameter.grad = None

    def _forward_backward(self, batch: GlobalBatch) -> _Attempt:
        """Accumulate gradients over the micro-batches, and the sum of their losses on the device."""
        device, scaler = self._world.device, self._precision.scaler
        total = torch.zeros((), device=device)
        share = 1.0 / max(1, batch.target_tokens)
        if self._bf16_weights is not None:
            self._bf16_weights.refresh()
        try:
            inputs = _on_device(batch, device)
            for start in range(0, len(batch.input_ids), self.micro_batch):
                if self._should_stop():
                    return _Attempt(total, out_of_memory=False, stopped=True)
                rows = slice(start, start + self.micro_batch)
                with self._precision.autocast():
                    loss_sum, _ = self._loss_function(*inputs.rows(rows))
                loss = loss_sum * share
                (scaler.scale(loss) if scaler is not None else loss).backward()
                total += loss_sum.detach()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return _Attempt(total, out_of_memory=True, stopped=False)  # nothing is allocated on a device that is full
        return _Attempt(total, out_of_memory=False, stopped=False)

    def _agree(self, attempt: _Attempt) -> tuple[Tensor, bool, bool]:
        """Sum the loss over the ranks; one rank's trouble is everyone's."""
        if self._world.size == 1:
            return attempt.loss_sum, attempt.out_of_memory, attempt.stopped
        values = torch.stack(
            [
                attempt.loss_sum,
                attempt.loss_sum.new_tensor(attempt.out_of_memory),
                attempt.loss_sum.new_tensor(attempt.stopped),
            ]
        )  # [3]
        self._world.sum(values)
        out_of_memory, stopped = values[1:].tolist()
        return values[0], out_of_memory > 0, stopped > 0

    def _apply(self, batch: GlobalBatch, loss_sum: Tensor) -> StepResult:
        """Sum gradients over the ranks, clip, and step if loss and norm are finite."""
        self._world.sum_gradients(self._parameters)
        scaler = self._precision.scaler
        if scaler is not None:
            for optimizer in self._optimizer.optimizers:
                scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        numbers = torch.stack([loss_sum.to(norm), norm])  # [2]
        self._on_host.send(numbers)
        if self._decides_on_device:
            self._step_if_finite(numbers, norm)
        # the only wait per step for a device that works asynchronously: it is for the numbers, not for the update
        loss_total, norm_value = self._on_host.receive()
        loss = loss_total / max(1, batch.target_tokens)
        if not (math.isfinite(loss) and math.isfinite(norm_value)):
            self._drop_gradients()
            return StepResult(Outcome.NONFINITE, loss, norm_value)
        if norm_value == 0.0 and loss > 0.0 and not self._said_no_gradient:
            self._said_no_gradient = True
            logger.warning("the gradient is zero everywhere although the loss is %.3g: nothing is learned", loss)
        if not self._decides_on_device:
            if norm_value > self._max_grad_norm:
                torch.nn.utils.clip_grads_with_norm_(self._parameters, self._max_grad_norm, norm)
            self._step()
        if scaler is not None:
            scaler.update()
        return StepResult(Outcome.UPDATED, loss, norm_value)

    def _step_if_finite(self, numbers: Tensor, norm: Tensor) -> None:
        """Clip and step without knowing the numbers; AdamW's kernel looks at them, as it does for a `GradScaler`."""
        if math.isfinite(self._max_grad_norm):
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._max_grad_norm, norm)
        not_finite = numbers.isfinite().all().logical_not().float()
        for optimizer in self._optimizer.optimizers:
            optimizer.found_inf = not_finite  # pyright: ignore[reportAttributeAccessIssue] - the protocol of torch.amp
        try:
            self._step()
        finally:
            for optimizer in self._optimizer.optimizers:
                del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]

    def _step(self) -> None:
        try:
            self._optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # some parameters may already be updated, so replaying would train on the batch twice
            raise MemoryExhaustedError(
                f"out of memory in the optimizer's update, where a smaller micro-batch does not help ({error}); "
                "use a smaller model, training.optimizer: adafactor, or a larger device"
            ) from error

    def _scale_is_to_blame(self, result: StepResult) -> bool:
        """After a non-finite gradient: halve the loss scale, and tell whether a replay may cure it."""
        scaler = self._precision.scaler
        if scaler is None:
            return False
        scale = scaler.get_scale()
        scaler.update()  # saw the overflow when it unscaled; also resets it for the next attempt
        if not math.isfinite(result.loss) or scale <= SMALLEST_SCALE:
            return False
        logger.info("fp16 overflow: loss scale %g -> %g, the batch is replayed", scale, scaler.get_scale())
        return True

    def _halve(self, rows: int) -> None:
        largest = -self._world.smallest(-rows)  # of the ranks' shares, so that all come to the same answer
        before = max(1, min(self.micro_batch, largest))
        release_memory(self._world.device)
        if before == 1:
            raise MemoryExhaustedError(
                "out of memory with one sequence at a time; lower data.max_sequence_length or the size of the model, "
                "or set training.gradient_checkpointing: true, training.precision: bf16 or training.chunked_loss: on"
            )
        self.micro_batch = before // 2
        logger.warning("out of memory: micro-batch %d -> %d, the batch is replayed", before, self.micro_batch)


def decides_on_device(optimizer: OptimizerGroup, device: torch.device) -> bool:
    """Whether updates can be left to kernels that look themselves whether the numbers are finite.

    Only AdamW: the kernel of SGD would take a momentum that was never written for a real one.
    """
    return device.type == "cuda" and all(
        type(member) in (FusedAdamW, torch.optim.AdamW) and getattr(member, "_step_supports_amp_scaling", False)
        for member in optimizer.optimizers
    )


class _HostCopy:
    """A few numbers on their way to the host, while a GPU goes on with what is queued behind them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._numbers = torch.empty(2, pin_memory=True) if device.type == "cuda" else torch.empty(2)
        self._sent = torch.cuda.Event() if device.type == "cuda" else None

    def send(self, numbers: Tensor) -> None:
        """Queue the copy of `numbers`. [2]"""
        self._numbers.copy_(numbers, non_blocking=self._sent is not None)  # elsewhere there is nothing to wait for
        if self._sent is not None:
            self._sent.record(torch.cuda.current_stream(self._device))

    def receive(self) -> list[float]:
        """Wait for the copy, and return it."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._numbers.tolist()


class _Inputs(NamedTuple):
    """The tensors of a batch, in the order of a `LossFunction`. [n, T] each"""

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor | None
    attention_mask: Tensor | None

    def rows(self, rows: slice) -> "_Inputs":
        return _Inputs(
            self.input_ids[rows],
            self.labels[rows],
            None if self.position_ids is None else self.position_ids[rows],
            None if self.attention_mask is None else self.attention_mask[rows],
        )


def _on_device(batch: GlobalBatch, device: torch.device) -> _Inputs:
    """Move the tensors of a batch, each once: labels are often the very tensor of the ids."""
    inputs = _Inputs(batch.input_ids, batch.labels, batch.position_ids, batch.attention_mask)
    if device.type == "cpu":
        return inputs
    moved = {id(tensor): tensor.to(device, non_blocking=True) for tensor in inputs if tensor is not None}
    return _Inputs(
        moved[id(inputs.input_ids)],
        moved[id(inputs.labels)],
        None if inputs.position_ids is None else moved[id(inputs.position_ids)],
        None if inputs.attention_mask is None else moved[id(inputs.attention_mask)],
    )
