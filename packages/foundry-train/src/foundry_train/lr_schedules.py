"""The learning rate as a pure function of the step: nothing to save, nothing to restore, plottable in advance.

    rate = learning_rate_function("cosine", LrShape(peak=3e-4, total_steps=1000, warmup_steps=100, min_ratio=0.1))
    rate(0) -> 3e-06      the update that makes step 1: one hundredth of the way up
    rate(99) -> 0.0003    the end of the warm-up
    rate(999) -> 3e-05    (nearly) the floor: the last update

`step` is the number of updates completed *before* the one whose rate is asked for. A schedule is a function
`(step, shape) -> share` for the steps after the warm-up: 1 gives the peak, 0 the floor. A user's own schedule, named
in the config as `"module:function"`, has the same signature.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from foundry_config.errors import ConfigError
from foundry_config.lookup import pick, users_code
from foundry_config.shares import steps_of


class LrShape(NamedTuple):
    """What a schedule may depend on, besides the step."""

    peak: float
    """Learning rate at the end of the warm-up."""
    total_steps: int
    warmup_steps: int = 0
    min_ratio: float = 0.0
    """Floor, as a share of the peak."""
    decay_ratio: float = 0.2
    """Share of all steps that decays at the end (wsd)."""
    power: float = 1.0
    """Exponent (polynomial)."""

    def progress(self, step: int) -> float:
        """Share of the steps after the warm-up that lies behind `step`: from 0 to just below 1 at the last update."""
        return (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)


LrSchedule = Callable[[int, LrShape], float]


def learning_rate_function(name: str, shape: LrShape) -> Callable[[int], float]:
    """Return `rate(step)` for the schedule called `name`.

    The warm-up is linear and never wastes an update at rate 0: update `i` (from 0) of `w` has `peak * (i + 1) / w`.
    After it the rate is `floor + (peak - floor) * share`.

    Raises:
        ConfigError: Unknown schedule, or a user's schedule that raises, or returns something else than a share. It is
            called for the first and the last update after the warm-up at once, and checked at every call.
    """
    schedule: LrSchedule = pick(name, LR_SCHEDULES, kind="lr_schedule")
    floor = shape.peak * shape.min_ratio

    def rate(step: int) -> float:
        if step < shape.warmup_steps:
            return shape.peak * (step + 1) / shape.warmup_steps
        with users_code(name, kind="lr_schedule"):
            share = schedule(step, shape)
        return floor + (shape.peak - floor) * _checked(share, name, step)

    for step in (shape.warmup_steps, shape.total_steps - 1):
        if step < shape.total_steps:  # else all of the run is warm-up
            rate(step)
    return rate


def _checked(share: object, name: str, step: int) -> float:
    """Return a share as a plain number, whatever numeric type a schedule computes with."""
    try:
        value = math.nan if isinstance(share, str) else float(share)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of a tensor with several numbers
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"lr_schedule {name!r} returned {share!r} for step {step}; it must be between 0 and 1")
    return value


def constant(step: int, shape: LrShape) -> float:  # noqa: ARG001 (the signature of every schedule)
    """Stay at the peak."""
    return 1.0


def linear(step: int, shape: LrShape) -> float:
    """Fall in a straight line to the floor."""
    return max(0.0, 1.0 - shape.progress(step))


def cosine(step: int, shape: LrShape) -> float:
    """Fall along half a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, shape.progress(step))))


def polynomial(step: int, shape: LrShape) -> float:
    """Fall as `(1 - progress) ** power`."""
    return linear(step, shape) ** shape.power


def inverse_sqrt(step: int, shape: LrShape) -> float:
    """Fall with one over the square root of the step, scaled to meet the warm-up (Vaswani et al. 2017)."""
    return min(1.0, math.sqrt(max(1, shape.warmup_steps) / (step + 1)))


def warmup_stable_decay(step: int, shape: LrShape) -> float:
    """Stay at the peak, then fall in a straight line over the last `decay_ratio` of the run (Hu et al. 2024)."""
    decay_steps = min(shape.total_steps - shape.warmup_steps, steps_of(shape.decay_ratio, shape.total_steps))
    remaining = shape.total_steps - step
    return 1.0 if remaining > decay_steps else max(0.0, remaining / (decay_steps + 1))


LR_SCHEDULES: dict[str, LrSchedule] = {
    "linear": linear,
    "cosine": cosine,
    "wsd": warmup_stable_decay,
    "constant": constant,
    "inverse_sqrt": inverse_sqrt,
    "polynomial": polynomial,
}
