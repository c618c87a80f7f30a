"""How documents fill sequences of T tokens. A `Rows` object answers for every row of a packed store.

    documents   AAAAA BB CCC            T = 4, `.` is padding

    concat      AAAA | ABBC | (CC)      end to end; the remainder in brackets is left out and counted
    best_fit    AAAA | ABB. | CCC.      whole where they fit, fullest row first
    document    AAAA | A... | BB.. | CCC.    a document never shares a row

Labels are those of Hugging Face models: equal to the tokens (the model shifts them), -100 where nothing is predicted,
which is padding and, with `document_mask`, the first token of each document.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from foundry_config.errors import DataError
from foundry_config.lookup import pick
from foundry_data.mapped_stream import Positions
from foundry_data.row_index import RowIndex, best_fit_index, document_index
from foundry_data.row_index_cache import cached_index
from foundry_data.store import ChunkStore

IGNORED = -100
Matrix = npt.NDArray[np.int64]


class RowBatch(NamedTuple):
    """Some rows of a packed store."""

    input_ids: Matrix
    """[B, T] token ids."""
    labels: Matrix
    """[B, T]; the same array as `input_ids` where every token is predicted."""
    position_ids: Matrix | None
    """[B, T] positions that start again with every document; None unless documents are masked from each other."""


class Rows(Protocol):
    """A store packed into rows of equal length."""

    store: ChunkStore
    length: int
    """Tokens per row (T)."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def gather(self, indices: Positions) -> RowBatch:
        """Return rows, in the order asked for."""
        ...

    @property
    def plain(self) -> bool:
        """Whether row i is nothing but the tokens from i * T on: every one is a label, none has a position."""
        ...

    def tokens(self, indices: Positions) -> Positions:
        """Return the tokens of each row, padding not counted. [B]"""
        ...

    def words(self, indices: Positions) -> Positions:
        """Return the words that begin in each row. [B]"""
        ...

    def targets(self, indices: Positions) -> Positions:
        """Return how many tokens of each row are predicted. [B]"""
        ...

    def target_bytes(self, indices: Positions) -> npt.NDArray[np.float64]:
        """Return the bytes of text that the predicted tokens of each row stand for. [B]

        Exact where the store's `bytes_exact` is true; else its byte counts, which are exact for the whole store, are
        spread over the tokens in proportion.
        """
        ...

    @property
    def left_out(self) -> int:
        """Tokens of the store that are in no row."""
        ...

    @property
    def padding(self) -> int:
        """Places of all rows together that hold no token."""
        ...

    @property
    def losses(self) -> Mapping[str, int]:
        """What packing costs: `dropped_tokens` (`left_out`) and `padding`."""
        ...


class ConcatRows:
    """Rows that lie end to end in the stream: row i is the tokens from i * T."""

    def __init__(self, store: ChunkStore, length: int, *, document_mask: bool = False) -> None:
        self.store = store
        self.length = length
        self.document_mask = document_mask
        self._count = len(store) // length
        self._distinct_starts = _without_repeats(store.document_starts[:-1]) if document_mask else None

    def __len__(self) -> int:
        return self._count

    def gather(self, indices: Positions) -> RowBatch:
        starts = np.asarray(indices, dtype=np.int64) * self.length
        input_ids = self.store.gather(starts, self.length).astype(np.int64)  # [B, T]
        if not self.document_mask:
            return RowBatch(input_ids, input_ids, None)
        begins = _document_begins(self.store, starts, self.length)
        labels = np.where(begins, IGNORED, input_ids)
        return RowBatch(input_ids, labels, _positions(begins))

    @property
    def plain(self) -> bool:
        return not self.document_mask

    def tokens(self, indices: Positions) -> Positions:
        return np.full(len(indices), self.length, dtype=np.int64)

    def words(self, indices: Positions) -> Positions:
        starts = np.asarray(indices, dtype=np.int64) * self.length
        return self.store.words_before(starts + self.length) - self.store.words_before(starts)

    def targets(self, indices: Positions) -> Positions:
        targets = np.full(len(indices), self.length - 1, dtype=np.int64)
        if self.document_mask:
            starts = np.asarray(indices, dtype=np.int64) * self.length
            ends = starts + self.length
            begins = self.store.document_starts[:-1] if self._distinct_starts is None else self._distinct_starts
            targets -= np.searchsorted(begins, ends) - np.searchsorted(begins, starts + 1)
        return targets

    def target_bytes(self, indices: Positions) -> npt.NDArray[np.float64]:
        batch = self.gather(indices)
        starts = np.asarray(indices, dtype=np.int64) * self.length
        return _target_bytes(self.store, batch, _prefix_places(self.store, starts, self.length))

    @property
    def left_out(self) -> int:
        return len(self.store) - self._count * self.length

    @property
    def padding(self) -> int:
        return 0

    @property
    def losses(self) -> Mapping[str, int]:
        return {"dropped_tokens": self.left_out, "padding": self.padding}


class IndexedRows:
    """Rows made of segments of the stream, padded to T."""

    def __init__(self, store: ChunkStore, length: int, index: RowIndex, *, document_mask: bool = False) -> None:
        """Use `best_fit_rows` or `document_rows`, which make the index."""
        if store.manifest.pad_id is None:
            raise DataError(
                f"token store {store.folder} was made by a tokenizer without a pad token, which data.packing needs; "
                "set data.packing: concat"
            )
        self.store = store
        self.length = length
        self.index = index
        self.document_mask = document_mask
        self._pad = store.manifest.pad_id

    def __len__(self) -> int:
        return len(self.index.first) - 1

    def gather(self, indices: Positions) -> RowBatch:
        sources, begins = self._layout(np.asarray(indices, dtype=np.int64))
        filled = sources >= 0
        input_ids = np.full(sources.shape, self._pad, dtype=np.int64)  # [B, T]
        input_ids[filled] = self.store.gather(sources[filled], 1)[:, 0]
        ignored = ~filled | begins if self.document_mask else ~filled
        labels = np.where(ignored, IGNORED, input_ids)
        return RowBatch(input_ids, labels, _positions(begins) if self.document_mask else None)

    @property
    def plain(self) -> bool:
        return False

    def _layout(self, rows: Positions) -> tuple[Matrix, npt.NDArray[np.bool_]]:
        """Return for each place of the rows its token in the stream, -1 for padding, and whether a segment begins."""
        row_of, segments = self.index.segments_of(rows)
        lengths = self.index.lengths[segments]
        before = np.cumsum(lengths) - lengths
        row_starts = before[np.searchsorted(row_of, np.arange(len(rows)))]
        columns = before - row_starts[row_of]  # [S] where each segment begins in its row
        inside = np.arange(int(lengths.sum())) - np.repeat(before, lengths)
        sources = np.full((len(rows), self.length), -1, dtype=np.int64)
        begins = np.zeros((len(rows), self.length), dtype=bool)
        places = (np.repeat(row_of, lengths), np.repeat(columns, lengths) + inside)
        sources[places] = np.repeat(self.index.starts[segments], lengths) + inside
        begins[row_of, columns] = True
        return sources, begins

    def tokens(self, indices: Positions) -> Positions:
        row_of, segments = self.index.segments_of(np.asarray(indices, dtype=np.int64))
        return np.bincount(row_of, weights=self.index.lengths[segments], minlength=len(indices)).astype(np.int64)

    def words(self, indices: Positions) -> Positions:
        row_of, segments = self.index.segments_of(np.asarray(indices, dtype=np.int64))
        starts = self.index.starts[segments]
        words = self.store.words_before(starts + self.index.lengths[segments]) - self.store.words_before(starts)
        return np.bincount(row_of, weights=words, minlength=len(indices)).astype(np.int64)

    def targets(self, indices: Positions) -> Positions:
        targets = self.tokens(indices) - 1
        if self.document_mask:
            rows = np.asarray(indices, dtype=np.int64)
            targets -= self.index.first[rows + 1] - self.index.first[rows] - 1
        return targets

    def target_bytes(self, indices: Positions) -> npt.NDArray[np.float64]:
        rows = np.asarray(indices, dtype=np.int64)
        sources, _ = self._layout(rows)
        return _target_bytes(self.store, self.gather(rows), _is_prefix(self.store, sources))

    @property
    def left_out(self) -> int:
        return len(self.store) - int(self.index.lengths.sum())

    @property
    def padding(self) -> int:
        return len(self) * self.length - int(self.index.lengths.sum())

    @property
    def losses(self) -> Mapping[str, int]:
        return {"dropped_tokens": self.left_out, "padding": self.padding}


def concat_rows(store: ChunkStore, length: int, *, document_mask: bool = False) -> Rows:
    """Pack documents end to end; nothing is lost but the counted remainder."""
    return ConcatRows(store, length, document_mask=document_mask)


def best_fit_rows(store: ChunkStore, length: int, *, document_mask: bool = False) -> Rows:
    """Pack documents whole where they fit; longer ones are cut into full rows and a rest that is packed like others."""
    index = cached_index(store, "best_fit", length, lambda: best_fit_index(store, length))
    return IndexedRows(store, length, index, document_mask=document_mask)


def document_rows(store: ChunkStore, length: int, *, document_mask: bool = False) -> Rows:
    """Give every document rows of its own."""
    return IndexedRows(store, length, document_index(store, length), document_mask=document_mask)


def packed_rows(store: ChunkStore, length: int, *, packing: str = "concat", document_mask: bool = False) -> Rows:
    """Pack a store as `data.packing` says.

    Args:
        store: The tokens.
        length: Tokens per row (T), at least 2.
        packing: `concat`, `best_fit` or `document`.
        document_mask: Number positions from each document's start and predict no document's first token, for models
            that keep documents apart by their positions.

    Raises:
        ConfigError: Unknown packing.
        DataError: Padding is needed, but the tokenizer has no pad token.
    """
    return pick(packing, PACKINGS, kind="packing")(store, length, document_mask=document_mask)


def _without_repeats(starts: Positions) -> Positions | None:
    """Return where documents begin, each place once (an empty one shares its place), or None if they are so already."""
    return None if bool((np.diff(starts) > 0).all()) else np.unique(starts)


def _document_begins(store: ChunkStore, starts: Positions, length: int) -> npt.NDArray[np.bool_]:
    """Where documents begin in the rows [B, T] of the stream; the first place of a row always counts."""
    begins = np.zeros((len(starts), length), dtype=bool)
    begins[:, 0] = True
    rows, columns = _places_of_documents(store, starts, length)
    begins[rows, columns] = True
    return begins


def _places_of_documents(store: ChunkStore, starts: Positions, length: int) -> tuple[Positions, Positions]:
    """Return row and column of every document that begins in the rows."""
    first = np.searchsorted(store.document_starts, starts)
    last = np.searchsorted(store.document_starts, starts + length)
    counts = last - first
    rows = np.repeat(np.arange(len(starts)), counts)
    documents = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    return rows, store.document_starts[documents] - starts[rows]


def _positions(begins: npt.NDArray[np.bool_]) -> Matrix:
    """Number the places of each row from the last beginning on. [B, T]"""
    places: Matrix = np.broadcast_to(np.arange(begins.shape[1], dtype=np.int64), begins.shape)
    return places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)


def _prefix_places(store: ChunkStore, starts: Positions, length: int) -> npt.NDArray[np.bool_]:
    sources = starts[:, None] + np.arange(length)
    return _is_prefix(store, sources)


def _is_prefix(store: ChunkStore, sources: Matrix) -> npt.NDArray[np.bool_]:
    """Whether each token of the stream carries a space that is not in the text: the first of a document, BOS aside."""
    if not store.manifest.dummy_prefix:
        return np.zeros(sources.shape, dtype=bool)
    places = sources - int(store.manifest.add_bos)
    found = np.searchsorted(store.document_starts[:-1], places)
    padded = np.append(store.document_starts[:-1], -1)
    return padded[np.minimum(found, len(padded) - 1)] == places


def _target_bytes(store: ChunkStore, batch: RowBatch, prefixed: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    sizes = store.token_bytes[batch.input_ids].astype(np.int64) - prefixed
    sizes = np.where(batch.labels == IGNORED, 0, np.maximum(sizes, 0))
    manifest = store.manifest
    scale = 1.0 if manifest.bytes_exact or not manifest.token_byte_sum else manifest.bytes / manifest.token_byte_sum
    return sizes[:, 1:].sum(axis=1) * scale


PACKINGS = {"concat": concat_rows, "best_fit": best_fit_rows, "document": document_rows}
