"""How fast a run goes: tokens per second, model FLOPs utilisation, time to the end.

What counts as a token is what the model reads, without padding. FLOPs per token are
those of the model's own arithmetic, forward and backward (see `foundry_model.flops_per_token`); recomputation for
gradient checkpointing is not counted, so that MFU says how much of the machine went into learning.
"""

import logging
import math
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

SMOOTHING_SECONDS = 10.0  # time after which the weight of what was counted has fallen to 1/e


class _Recent:
    """Steps, tokens and seconds of about the last ten seconds: sums whose older parts fade as time passes.

    Rates are one sum over another, so a second of training counts as a second, whether it was one slow step or many.
    """

    def __init__(self) -> None:
        self.steps = self.tokens = self.seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        fading = math.exp(-seconds / SMOOTHING_SECONDS)
        self.steps = self.steps * fading + 1.0
        self.tokens = self.tokens * fading + tokens
        self.seconds = self.seconds * fading + seconds


class Throughput:
    """Running rates, smoothed over about ten seconds; the first step, which warms everything up, is left out."""

    def __init__(
        self,
        *,
        world_size: int,
        flops_per_token: float | None,
        peak_flops: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            world_size: Number of devices.
            flops_per_token: Forward and backward, of the whole model.
            peak_flops: Of one device, FLOP/s; None gives no MFU.
            clock: Monotonic seconds.
        """
        self._recent = _Recent()
        self._world_size = world_size
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._clock = clock
        self._last = clock()
        self._steps = 0
        self._tokens_total = 0
        self._seconds_total = 0.0
        self._impossible_reported = False

    def resume_clock(self) -> None:
        """Start counting from now, so that an evaluation or a save does not count as training time."""
        self._last = self._clock()

    def step(self, tokens: int) -> None:
        """Count one update over `tokens` tokens of all ranks, which ended now."""
        now = self._clock()
        elapsed, self._last = max(now - self._last, 1e-9), now
        self._steps += 1
        if self._steps == 2:  # the first step's rate was the best guess until now
            self._recent = _Recent()
        self._recent.add(tokens, elapsed)
        if self._steps > 1:
            self._tokens_total += tokens
            self._seconds_total += elapsed

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of late, over all ranks."""
        return self._recent.tokens / self._recent.seconds if self._recent.seconds else 0.0

    @property
    def average(self) -> float:
        """Tokens per second of all steps but the first, over all ranks; of the first if there was no other."""
        return self._tokens_total / self._seconds_total if self._seconds_total else self.tokens_per_second

    @property
    def tokens_per_second_per_device(self) -> float:
        return self.tokens_per_second / self._world_size

    @property
    def mfu(self) -> float | None:
        """Share of the devices' peak that went into the model's own arithmetic, 0 to 1, or None if not known.

        A value above 1 means that the table of peaks or the count of FLOPs is wrong; it is reported once and not shown.
        """
        if self._peak_flops is None or self._flops_per_token is None:
            return None
        share = self.tokens_per_second_per_device * self._flops_per_token / self._peak_flops
        if share <= 1.0:
            return share
        if not self._impossible_reported:
            self._impossible_reported = True
            logger.error(
                "MFU came out as %.0f %%, which cannot be; it is left out (peak or FLOP count is wrong)", 100 * share
            )
        return None

    def eta_seconds(self, remaining_steps: int) -> float:
        """Expected time for `remaining_steps` more steps at the current rate."""
        return remaining_steps * self._recent.seconds / self._recent.steps if self._recent.steps else 0.0
