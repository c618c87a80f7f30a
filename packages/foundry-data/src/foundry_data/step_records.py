"""What is noted about a step while documents pass through it: the raw material of its receipt."""

from dataclasses import dataclass, field
from typing import Any

from foundry_data.receipts import Pair, PairSample
from foundry_data.transforms import Step


@dataclass
class StepRecord:
    """Counts and pairs of one step."""

    step: Step
    changed: int | None = 0
    removed: int | None = 0
    seconds: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict[str, Any])
    sample: PairSample = field(default_factory=PairSample)
    stream_pairs: tuple[Pair, ...] = ()
    """Pairs of a step that rewrites the whole stream, which are matched by source."""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs for the receipt."""
        return self.stream_pairs or self.sample.result()

    def passes(self, source: str, before: str, after: str | None, priority: int) -> None:
        """Note what became of one document."""
        if after is None:
            self.removed = (self.removed or 0) + 1
        elif after != before:
            self.changed = (self.changed or 0) + 1
        self.sample.offer(source, before, after, priority)
