"""Turn documents into blocks of tokens with everything that the store keeps about them, in parallel and in order.

    documents -> [batch of ~256 KB] -> threads: encode, add BOS/EOS, count -> EncodedBlock, EncodedBlock, ...

Threads suffice, because the tokenizers release the interpreter lock. The cut into batches depends on the documents only
and results are taken in order, so the outcome is the same for any number of threads.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from foundry_config.errors import DataError
from foundry_data.documents import Document
from foundry_data.store_format import DTYPES, token_dtype
from foundry_data.text_counts import Counts, count_texts
from foundry_data.tokenizer import Ids, Tokenizer
from foundry_data.word_starts import SurfaceTable, WordStarts, sums_between, surface_table, word_starts

BATCH_CHARACTERS = 2**18  # small enough that the temporary arrays stay in the processor's cache
BATCH_DOCUMENTS = 2**13
QUEUED_PER_THREAD = 3


class EncodedBlock(NamedTuple):
    """The tokens of consecutive documents. M tokens, N documents."""

    tokens: npt.NDArray[np.unsignedinteger[Any]]
    """[M], BOS and EOS included."""
    word_starts: WordStarts
    """[M] words that begin in each token."""
    lengths: Counts
    """[N] tokens of each document."""
    words: Counts
    """[N] words of each document's text."""
    bytes: Counts
    """[N] UTF-8 bytes of each document's text."""
    unknown: int
    """Tokens that stand for something outside the vocabulary."""
    token_bytes: int
    """Bytes of the tokens by the vocabulary's table, dummy prefixes taken off."""
    bytes_exact: bool
    """`token_bytes` is right for every single document."""


class Encoder:
    """Makes blocks out of batches of texts; shared by all threads."""

    def __init__(self, tokenizer: Tokenizer, *, add_bos: bool, add_eos: bool) -> None:
        """Prepare for a tokenizer.

        Raises:
            DataError: BOS or EOS is asked for, but the tokenizer has none.
        """
        self.tokenizer = tokenizer
        self.before = np.array(_special(tokenizer.bos_id, "add_bos") if add_bos else [], dtype=np.int32)
        self.after = np.array(_special(tokenizer.eos_id, "add_eos") if add_eos else [], dtype=np.int32)
        self.dtype = DTYPES[token_dtype(tokenizer.vocab_size)]
        self.table: SurfaceTable = surface_table(tokenizer)

    def __call__(self, texts: Sequence[str]) -> EncodedBlock:
        """Encode a batch of documents."""
        ids = self.tokenizer.encode_batch(texts)
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        flat = np.concatenate(ids) if ids else np.empty(0, dtype=np.int32)
        ends = np.cumsum(lengths)
        counts = count_texts(texts)
        starts = word_starts(texts, flat, ends, counts, self.table, self.tokenizer)
        token_bytes = sums_between(self.table.byte_lengths.take(flat), ends - lengths, ends)
        token_bytes -= self.tokenizer.has_dummy_prefix & (lengths > 0)
        return EncodedBlock(
            tokens=self._with_borders(flat, lengths, self.before, self.after, self.dtype),
            word_starts=self._with_borders(starts, lengths, self.before * 0, self.after * 0, np.dtype("u1")),
            lengths=lengths + len(self.before) + len(self.after),
            words=counts.words,
            bytes=counts.bytes,
            unknown=int(np.count_nonzero(flat == self.table.unknown)),
            token_bytes=int(token_bytes.sum()),
            bytes_exact=np.array_equal(token_bytes, counts.bytes),
        )

    def _with_borders(
        self, flat: npt.NDArray[Any], lengths: Counts, before: Ids, after: Ids, dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        """Put `before` and `after` around every document of `flat`."""
        around = len(before) + len(after)
        if not around:
            return flat.astype(dtype)
        out = np.empty(len(flat) + around * len(lengths), dtype=dtype)
        ends = np.cumsum(lengths + around)
        inside = np.ones(len(out), dtype=bool)
        for offset, value in enumerate(before.tolist()):
            places = ends - lengths - around + offset
            out[places], inside[places] = value, False
        for offset, value in enumerate(after.tolist()):
            places = ends - len(after) + offset
            out[places], inside[places] = value, False
        out[inside] = flat
        return out


def batches_of_texts(documents: Iterable[str | Document]) -> Iterator[list[str]]:
    """Collect documents into batches of about 256 thousand characters; the cut depends on the documents only."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        text = document if isinstance(document, str) else document.text
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encode_documents(batches: Iterable[list[str]], encoder: Encoder, *, num_threads: int) -> Iterator[EncodedBlock]:
    """Yield one block for every batch, in order, made by `num_threads` threads that run a few batches ahead."""
    if num_threads <= 1:
        yield from map(encoder, batches)
        return
    waiting: deque[Future[EncodedBlock]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="tokenize")
    try:
        for batch in batches:
            waiting.append(pool.submit(encoder, batch))
            if len(waiting) >= num_threads * QUEUED_PER_THREAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _special(token_id: int | None, field: str) -> list[int]:
    if token_id is None:
        raise DataError(
            f"data.{field} is true, but the tokenizer has no {field[4:].upper()} token; set data.{field}: false"
        )
    return [token_id]
