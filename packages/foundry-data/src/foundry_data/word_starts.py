"""Count, for every token, the words that begin in it, so that the words of any range of tokens are known exactly.

    text     "The cat sat"          words, as everywhere: runs between whitespace
    tokens   ▁The ▁c at ▁sa t
    starts      1  1  0   1 0       sum = len(text.split())

A word belongs to the token that holds its first character. For most text this follows from the tokens alone, by a table
over the vocabulary (`SurfaceTable`): a word starts wherever a byte that is not whitespace follows one that is. The
table cannot see what a token hides (a normalized or unknown character, a wide space spelled in bytes); such documents
are found by their characters or by their count, and take the slow road over character offsets.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foundry_data.text_counts import IS_SPACE, Counts, TextCounts
from foundry_data.tokenizer import Ids, Tokenizer

WordStarts = npt.NDArray[np.uint8]

LARGEST = 255  # word starts per token that one byte can say
INNER_LIMIT = 63

# One byte per entry of the vocabulary, so that a single gather over the tokens suffices:
BEGINS_WORD = 1  # the first byte is not whitespace: a word begins here if whitespace came before
ENDS_IN_SPACE = 2  # the last byte is whitespace, or the token stands for no text
INNER_SHIFT = 2  # from here up: words that begin inside the token, after whitespace of its own


class SurfaceTable(NamedTuple):
    """What the tokens of a vocabulary look like."""

    code: npt.NDArray[np.uint8]
    """[V], see the bits above."""
    byte_lengths: npt.NDArray[np.uint16]
    """[V] bytes of text that each token stands for."""
    unknown: int
    """Id that hides its text, -1 if there is none."""


def surface_table(tokenizer: Tokenizer) -> SurfaceTable:
    """Tabulate the surfaces of all tokens of a vocabulary."""
    surfaces = tokenizer.token_surfaces()
    codes = np.array([_code(surface) for surface in surfaces], dtype=np.uint8)
    lengths = np.array([min(len(surface or b""), 2**16 - 1) for surface in surfaces], dtype=np.uint16)
    return SurfaceTable(codes, lengths, -1 if tokenizer.unk_id is None else tokenizer.unk_id)


def _code(surface: bytes | None) -> int:
    if not surface:
        return ENDS_IN_SPACE
    space = IS_SPACE[np.frombuffer(surface, dtype=np.uint8)]
    inner = min(INNER_LIMIT, int(np.count_nonzero(space[:-1] & ~space[1:])))
    return BEGINS_WORD * (not space[0]) | ENDS_IN_SPACE * bool(space[-1]) | inner << INNER_SHIFT


def word_starts(
    texts: Sequence[str], flat: Ids, ends: Counts, counts: TextCounts, table: SurfaceTable, tokenizer: Tokenizer
) -> WordStarts:
    """Return the words that begin in each token of a batch of documents.

    Args:
        texts: The documents, N of them.
        flat: The tokens of all documents end to end, without special tokens. [M]
        ends: Where each document ends in `flat`. [N]
        counts: From `count_texts(texts)`.
        table: From `surface_table(tokenizer)`.
        tokenizer: What made `flat`.

    Returns:
        [M]; the sum over a document is its number of words, if it has any token.
    """
    firsts = ends - np.diff(ends, prepend=0)
    starts = word_starts_by_table(flat, firsts[firsts < ends], table)
    wrong = sums_between(starts, firsts, ends) != counts.words
    wrong |= counts.special
    if table.unknown >= 0 and (unknown := np.flatnonzero(flat == table.unknown)).size:
        wrong[np.searchsorted(ends, unknown, side="right")] = True
    for document in np.flatnonzero(wrong & (firsts < ends)).tolist():
        starts[firsts[document] : ends[document]] = word_starts_by_offsets(texts[document], tokenizer)
    return starts


def word_starts_by_table(flat: npt.NDArray[np.integer], firsts: Counts, table: SurfaceTable) -> WordStarts:
    """Return the words that begin in each token, as far as the surfaces tell; see `word_starts`.

    Args:
        flat: The tokens of consecutive documents. [M]
        firsts: Where documents begin in `flat`, empty ones left out.
        table: The surfaces.
    """
    code = table.code.take(flat)
    after_space = np.empty_like(code)
    after_space[1:] = code[:-1] >> 1
    after_space[firsts] = 1
    after_space &= code
    after_space &= BEGINS_WORD
    code >>= INNER_SHIFT
    code += after_space
    return code


def sums_between(values: npt.NDArray[np.integer], firsts: Counts, ends: Counts) -> Counts:
    """Return the sum of `values[first:end]` for consecutive ranges that cover `values`, empty ones allowed. [N]"""
    sums = np.zeros(len(firsts), dtype=np.int64)
    filled = np.flatnonzero(firsts < ends)
    if filled.size:  # reduceat gives nonsense for an empty range
        sums[filled] = np.add.reduceat(values, firsts[filled], dtype=np.int64)
    return sums


def word_starts_by_offsets(text: str, tokenizer: Tokenizer) -> WordStarts:
    """Return the words that begin in each token of one text, from the character offsets of its tokens; exact, slow."""
    ids, last_characters = tokenizer.encode_offsets(text)
    places = np.array([match.start() for match in re.finditer(r"\S+", text)], dtype=np.int64)
    holders = np.minimum(np.searchsorted(last_characters, places), len(ids) - 1)
    return _fit_into_bytes(np.bincount(holders, minlength=len(ids)))


def _fit_into_bytes(counts: Counts) -> WordStarts:
    """Hand what exceeds 255 on to the next tokens, or to those before the end, so that the sum stays right."""
    if counts.max(initial=0) > LARGEST:
        for order in (range(len(counts)), range(len(counts) - 1, -1, -1)):
            excess = 0
            for place in order:
                total = int(counts[place]) + excess
                counts[place] = min(total, LARGEST)
                excess = total - int(counts[place])
            counts[order[-1]] += excess
    return np.minimum(counts, LARGEST).astype(np.uint8)
