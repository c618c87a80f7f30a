"""How many words of text the model has seen after any number of sequences, in the exact order of training."""

import threading

import numpy as np

from foundry_data.batches import BatchPlan
from foundry_data.order import Indices
from foundry_data.packing import Rows

ROWS_AT_ONCE = 2**16
CACHED_EPOCHS = 2


class WordCounter:
    """Answers `words_after`; keeps the words of every row, and the running total of the last epochs asked for."""

    def __init__(self, rows: Rows, plan: BatchPlan) -> None:
        self._rows = rows
        self._plan = plan
        self._words: Indices | None = None
        self._totals: dict[int, Indices] = {}
        self._lock = threading.Lock()

    def words_after(self, sequences: int) -> int:
        """Return the words in the first `sequences` sequences since the start of training, over all epochs.

        The first call looks at every row once; later ones cost a permutation for each new epoch at most.
        """
        with self._lock:
            return sum(
                self._whole_epoch() if taken == self._plan.count else int(self._epoch_totals(epoch)[taken])
                for epoch, taken in self._plan.epochs(sequences)
            )

    def _row_words(self) -> Indices:
        if self._words is None:
            blocks = [
                self._rows.words(np.arange(first, min(first + ROWS_AT_ONCE, self._plan.count), dtype=np.int64))
                for first in range(0, self._plan.count, ROWS_AT_ONCE)
            ]
            self._words = np.concatenate(blocks)
        return self._words

    def _whole_epoch(self) -> int:
        return int(self._row_words().sum())

    def _epoch_totals(self, epoch: int) -> Indices:
        """Words of the first n sequences of an epoch, for every n. [sequences per epoch + 1]"""
        if epoch not in self._totals:
            while len(self._totals) >= CACHED_EPOCHS:
                del self._totals[next(iter(self._totals))]
            order = self._plan.whole_order(epoch)[: self._plan.sequences_per_epoch]
            self._totals[epoch] = np.concatenate([[0], np.cumsum(self._row_words()[order])])
        return self._totals[epoch]
