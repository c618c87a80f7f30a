"""Where a run stands: the counters that, with weights, optimizer and random generators, make a resume exact.

    TrainState(step=1000, epoch=1, position=4128, sequences=32000, tokens=16384000, words=11900321)

The same record is what the loop advances, what `trainer/state.json` holds, and what a resume gives back. Numbers that
are not finite are refused when it is written: JSON cannot say them, and a run in such a state should not be saved.
"""

import math
from typing import Any

import msgspec

from foundry_config.errors import NonFiniteError


class TrainState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Counters of a run; all of them count from the very first step, over all ranks."""

    step: int = 0
    """Optimizer updates completed."""
    epoch: int = 0
    """Epoch of the next batch, counted from 0."""
    position: int = 0
    """Sequences of that epoch that were consumed before the next batch."""
    sequences: int = 0
    """Sequences consumed."""
    tokens: int = 0
    """Tokens consumed."""
    words: int = 0
    """Whitespace-separated words of raw text consumed."""
    loss_ema: float | None = None
    """Smoothed loss. [nats per token]"""
    best_loss: float | None = None
    """Lowest held-out loss so far. [nats per token]"""
    micro_batch: int | None = None
    """Sequences per forward pass and rank in use, after any retreat from a full memory."""
    nonfinite_skips: int = 0
    """Updates left out because loss or gradient was not finite."""
    overflow_skips: int = 0
    """Updates repeated because a scaled fp16 gradient overflowed."""
    extra: dict[str, Any] = {}
    """What a caller's own loop wants back; JSON values."""


def state_to_json(state: TrainState) -> dict[str, Any]:
    """Return `state` as JSON values.

    Raises:
        NonFiniteError: One of its numbers is NaN or infinite.
    """
    values = msgspec.to_builtins(state)
    broken = [f"{name} is {value}" for name, value in _numbers(values) if not math.isfinite(value)]
    if broken:
        raise NonFiniteError(f"the state of step {state.step} cannot be saved: {', '.join(broken)}")
    return values


def state_from_json(values: dict[str, Any]) -> TrainState:
    """Rebuild the state that `state_to_json` described.

    Raises:
        msgspec.ValidationError: `values` are not such a description.
    """
    return msgspec.convert(values, TrainState)


def _numbers(value: Any, name: str = "") -> list[tuple[str, float]]:
    if isinstance(value, float):
        return [(name, value)]
    if isinstance(value, dict):
        return [found for key, entry in value.items() for found in _numbers(entry, f"{name}.{key}".strip("."))]
    if isinstance(value, list | tuple):
        return [found for index, entry in enumerate(value) for found in _numbers(entry, f"{name}[{index}]")]
    return []
