"""The held-out sequences that every evaluation of a run reads: the same ones each time, spread over the split."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from foundry_data.packing import Rows
from foundry_train.evaluation_hook import HeldOut


class HeldOutBatch(NamedTuple):
    """A batch as `evaluate_sequences` reads it. [B, T] each"""

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor | None


def held_out_of(rows: Rows, *, max_sequences: int, batch_size: int) -> HeldOut | None:
    """Choose at most `max_sequences` rows at equal distances; None if there are none.

    The words and bytes are those of the predicted tokens, so that bits per word and per byte divide what was measured.
    """
    count = len(rows)
    if not count:
        return None
    chosen = np.unique(np.linspace(0, count - 1, min(count, max_sequences)).round().astype(np.int64))

    def batches() -> Iterator[HeldOutBatch]:
        for start in range(0, len(chosen), batch_size):
            batch = rows.gather(chosen[start : start + batch_size])
            positions = None if batch.position_ids is None else torch.from_numpy(batch.position_ids)
            yield HeldOutBatch(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.labels), positions)

    size = round(float(rows.target_bytes(chosen).sum()))
    return HeldOut(batches, words=int(rows.words(chosen).sum()), bytes=size)
