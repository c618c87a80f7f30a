"""Blocks for a store from token ids that were made elsewhere, such as a dataset with a column `input_ids`."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from foundry_config.errors import DataError
from foundry_data.encoding import EncodedBlock
from foundry_data.store_format import DTYPES, token_dtype
from foundry_data.tokenizer import Tokenizer
from foundry_data.word_starts import SurfaceTable, sums_between, word_starts_by_table

BLOCK_TOKENS = 2**16


def blocks_of_ids(
    sequences: Iterable[npt.NDArray[np.integer]], tokenizer: Tokenizer, table: SurfaceTable
) -> Iterator[EncodedBlock]:
    """Yield blocks of about 65 thousand tokens; the cut depends on the sequences only.

    Args:
        sequences: 1-D integer arrays, any length including 0.
        tokenizer: Whose ids they are.
        table: From `surface_table(tokenizer)`; words and bytes are counted with it.

    Raises:
        DataError: An id is not in the vocabulary.
    """
    batch: list[npt.NDArray[np.integer]] = []
    first, size = 0, 0
    for sequence in sequences:
        batch.append(sequence)
        size += len(sequence)
        if size >= BLOCK_TOKENS:
            yield _block(batch, first, tokenizer, table)
            first, batch, size = first + len(batch), [], 0
    if batch:
        yield _block(batch, first, tokenizer, table)


def _block(batch: list[npt.NDArray[np.integer]], first: int, tokenizer: Tokenizer, table: SurfaceTable) -> EncodedBlock:
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    ends = np.cumsum(lengths)
    flat = np.concatenate(batch).astype(np.int64)
    wrong = np.flatnonzero((flat < 0) | (flat >= tokenizer.vocab_size))
    if wrong.size:
        place = int(wrong[0])
        sequence = first + int(np.searchsorted(ends, place, side="right"))
        raise DataError(
            f"sequence {sequence} has the token id {flat[place]}, "
            f"but the vocabulary has {tokenizer.vocab_size} entries (ids 0 to {tokenizer.vocab_size - 1})"
        )
    firsts = ends - lengths
    starts = word_starts_by_table(flat, firsts[firsts < ends], table)
    token_bytes = sums_between(table.byte_lengths.take(flat), firsts, ends)
    return EncodedBlock(
        tokens=flat.astype(DTYPES[token_dtype(tokenizer.vocab_size)]),
        word_starts=starts,
        lengths=lengths,
        words=sums_between(starts, firsts, ends),
        bytes=token_bytes,
        unknown=int(np.count_nonzero(flat == table.unknown)),
        token_bytes=int(token_bytes.sum()),
        bytes_exact=False,  # there is no text to compare with
    )
