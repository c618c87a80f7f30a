"""Which rows make up each global batch: pure arithmetic over (epoch, position), the same on every rank and machine.

    10 rows, global batch 4:    epoch 0:  [4] [4] [2]   epoch 1:  [4] [4] [2]  ...     the short one is left out
                                                                                       with drop_last
    rank r of W takes a contiguous slice of every batch, for example 2 ranks:  [2 2] [2 2] [1 1]

The whole state of the stream of batches is (epoch, position), the sequences of the epoch that came before.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from foundry_config.errors import DataError
from foundry_data.order import EpochOrder, Indices, epoch_order

ORDER_WINDOW = 2**14  # positions of the order that are worked out at a time


class BatchPlace(NamedTuple):
    """Where a global batch lies in the data."""

    epoch: int
    position: int
    """Sequences of the epoch before this batch."""
    size: int
    """Sequences of the batch, over all ranks."""


class BatchPlan:
    """The division of endless epochs over `count` rows into global batches."""

    def __init__(
        self, count: int, *, global_batch: int, seed: int, shuffle: bool = True, drop_last: bool = False
    ) -> None:
        """Plan the batches.

        Args:
            count: Rows of an epoch.
            global_batch: Sequences per batch over all ranks.
            seed: Key of the order.
            shuffle: Visit rows in the order keyed by (seed, epoch); else as they lie.
            drop_last: Leave out the short last batch of an epoch.

        Raises:
            DataError: There is not one batch in an epoch.
            ValueError: `global_batch` is not positive.
        """
        if global_batch < 1:
            raise ValueError(f"a global batch needs at least one sequence, not {global_batch}")
        self.count = count
        self.global_batch = global_batch
        self.seed = seed
        self.shuffle = shuffle
        self.steps_per_epoch = count // global_batch if drop_last else -(-count // global_batch)
        self.sequences_per_epoch = min(count, self.steps_per_epoch * global_batch)
        if self.steps_per_epoch == 0:
            raise DataError(
                f"the prepared data has {count:,} sequences, fewer than one global batch of {global_batch:,}; use more "
                "text, a smaller data.batch_size or data.max_sequence_length, or data.drop_last: false"
            )
        self._order: EpochOrder | None = None
        self._order_epoch = -1
        self._window: tuple[int, int, Indices] = (-1, 0, np.empty(0, dtype=np.int64))

    @property
    def dropped_sequences(self) -> int:
        """Rows that no batch of an epoch holds."""
        return self.count - self.sequences_per_epoch

    def place(self, epoch: int, position: int) -> BatchPlace:
        """Return the batch that begins at a position; the end of an epoch is the start of the next.

        Raises:
            ValueError: No such position.
        """
        if epoch < 0 or not 0 <= position <= self.count:
            raise ValueError(f"epoch {epoch}, position {position} is not in data of {self.count} sequences per epoch")
        if position >= self.sequences_per_epoch:
            epoch, position = epoch + 1, 0
        return BatchPlace(epoch, position, min(self.global_batch, self.sequences_per_epoch - position))

    def after(self, place: BatchPlace) -> BatchPlace:
        """Return the next batch."""
        return self.place(place.epoch, place.position + place.size)

    def at_step(self, step: int) -> BatchPlace:
        """Return the batch of an update, counted from 0 at the start of training."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        return self.place(epoch, inside * self.global_batch)

    def rows(self, place: BatchPlace) -> Indices:
        """Return the rows of a whole global batch, in order. [size]"""
        return self.rows_between(place.epoch, place.position, place.position + place.size)

    def rows_between(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the rows at positions `start` to `stop` of an epoch."""
        if not self.shuffle:
            return np.arange(start, stop, dtype=np.int64)
        known_epoch, first, window = self._window
        if epoch != known_epoch or start < first or stop > first + len(window):
            first = start
            window = self._order_of(epoch)(np.arange(first, min(self.count, max(stop, first + ORDER_WINDOW))))
            self._window = (epoch, first, window)
        return window[start - first : stop - first]

    def whole_order(self, epoch: int) -> Indices:
        """Return the rows of a whole epoch, those that `drop_last` leaves out at the end included."""
        places = np.arange(self.count, dtype=np.int64)
        return epoch_order(self.count, self.seed, epoch)(places) if self.shuffle else places

    def _order_of(self, epoch: int) -> EpochOrder:
        if self._order is None or epoch != self._order_epoch:
            self._order, self._order_epoch = epoch_order(self.count, self.seed, epoch), epoch
        return self._order

    def epochs(self, sequences: int) -> Iterator[tuple[int, int]]:
        """Yield (epoch, sequences taken from it) for the first `sequences` sequences of training."""
        epoch = 0
        while sequences > 0:
            taken = min(sequences, self.sequences_per_epoch)
            yield epoch, taken
            sequences -= taken
            epoch += 1


def rank_slice(size: int, rank: int, world_size: int) -> slice:
    """Return the part of a batch of `size` sequences that belongs to a rank; sizes differ by one at most.

    >>> [rank_slice(5, rank, 2) for rank in (0, 1)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"there is no rank {rank} among {world_size}")
    return slice(rank * size // world_size, (rank + 1) * size // world_size)
