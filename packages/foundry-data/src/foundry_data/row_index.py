"""Which segments of the stream make up each row, for packings that pad.

    first     [0    1      3]         row 0 is segment 0, row 1 is segments 1 and 2
    starts    [0    40     9   ]      where a segment begins in the stream
    lengths   [8    5      3   ]

Best-fit-decreasing bin packing, after Ding et al., "Fewer Truncations Improve Language Modeling", 2024: documents from
long to short, each into the fullest row that still has room. Rows with the same room are filled together, so that the
time depends on the number of different lengths and not on the number of documents.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from foundry_data.mapped_stream import Positions
from foundry_data.store import ChunkStore


class RowIndex(NamedTuple):
    """The segments of every row. R rows, S segments."""

    first: Positions
    """[R + 1] first segment of each row, and S."""
    starts: Positions
    """[S] first token of each segment in the stream."""
    lengths: Positions
    """[S] tokens of each segment."""

    def segments_of(self, rows: Positions) -> tuple[Positions, Positions]:
        """Return for every segment of `rows`, row after row: the place of its row in `rows`, and its number."""
        counts = self.first[rows + 1] - self.first[rows]
        row_of = np.repeat(np.arange(len(rows)), counts)
        inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        return row_of, self.first[rows][row_of] + inside


def document_index(store: ChunkStore, length: int) -> RowIndex:
    """Put every document into rows of its own, cut after every `length` tokens."""
    starts, lengths = _segments(store, length)
    return RowIndex(np.arange(len(starts) + 1, dtype=np.int64), starts, lengths)


def best_fit_index(store: ChunkStore, length: int) -> RowIndex:
    """Pack documents into rows of `length` tokens, whole where they fit; rows in order of their first segment."""
    starts, lengths = _segments(store, length)
    rows = _fill_rows(lengths, length)
    order = np.lexsort((starts, rows))  # by row, then by place in the stream
    rows, starts, lengths = rows[order], starts[order], lengths[order]
    heads = np.flatnonzero(np.diff(rows, prepend=-1))  # first segment of each row
    by_stream = np.argsort(starts[heads], kind="stable")
    ends = np.append(heads[1:], len(rows))
    counts = (ends - heads)[by_stream]
    first = np.concatenate([[0], np.cumsum(counts)])
    picked = np.repeat(heads[by_stream] - first[:-1], counts) + np.arange(len(rows))
    return RowIndex(first, starts[picked], lengths[picked])


def _segments(store: ChunkStore, length: int) -> tuple[Positions, Positions]:
    """Cut every document that is longer than a row; returns starts and lengths, in stream order, none empty."""
    begins, sizes = store.document_starts[:-1], np.diff(store.document_starts)
    counts = -(-sizes // length)
    document = np.repeat(np.arange(len(sizes)), counts)
    inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = begins[document] + inside * length
    return starts, np.minimum(length, begins[document] + sizes[document] - starts)


def _fill_rows(lengths: Positions, capacity: int) -> Positions:
    """Return the row of each segment."""
    rows = np.empty(len(lengths), dtype=np.int64)
    by_length = np.argsort(-lengths, kind="stable")
    sizes, begins = np.unique(-lengths[by_length], return_index=True)
    open_rows: dict[int, list[Positions]] = {}
    count = 0
    for size, items in zip((-sizes).tolist(), np.split(by_length, begins[1:])):
        for room, each in _places(open_rows, size):
            used, items = _put(rows, items, each, room // size)
            for taken, filled in used:
                open_rows.setdefault(room - taken * size, []).append(filled)
            rest = each[sum(len(filled) for _, filled in used) :]
            if len(rest):
                open_rows.setdefault(room, []).append(rest)
            if not len(items):
                break
        if len(items):
            per_row = capacity // size
            fresh = np.arange(count, count - (-len(items) // per_row), dtype=np.int64)
            count += len(fresh)
            used, _ = _put(rows, items, fresh, per_row)
            for taken, filled in used:
                open_rows.setdefault(capacity - taken * size, []).append(filled)
    return rows


def _places(open_rows: dict[int, list[Positions]], size: int) -> Iterator[tuple[int, Positions]]:
    """Yield the rows with room for `size`, fullest first, and take them out."""
    for room in sorted(room for room in open_rows if room >= size):
        yield room, np.concatenate(open_rows.pop(room))


def _put(
    rows: Positions, items: Positions, places: Positions, per_row: int
) -> tuple[list[tuple[int, Positions]], Positions]:
    """Put `per_row` items into each of `places` while they last.

    Returns:
        How many items went into which rows, and the items that are left.
    """
    now = items[: per_row * len(places)]
    rows[now] = np.repeat(places, per_row)[: len(now)]
    full, rest = divmod(len(now), per_row)
    used = [(per_row, places[:full])] if full else []
    if rest:
        used.append((rest, places[full : full + 1]))
    return used, items[len(now) :]
