"""Words and bytes of many texts at once, counted on their joined UTF-8 bytes.

    count_texts(["The cat", "sat"]).words   -> [2, 1]        the same as len(text.split()) of each

Only `special` texts, those with a space beyond ASCII, are split one by one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foundry_data.sentencepiece_model import SPACE
from foundry_data.words import count_words

Counts = npt.NDArray[np.int64]

IS_SPACE = np.zeros(256, dtype=bool)  # by byte; only ASCII whitespace is one byte
IS_SPACE[[code for code in range(128) if chr(code).isspace()]] = True
# Other whitespace, and the mark that SentencePiece writes for a space: a token may hide these. [code points]
SPECIAL = np.zeros(2**16, dtype=bool)
SPECIAL[[code for code in range(128, 2**16) if chr(code).isspace()] + [ord(SPACE)]] = True


class TextCounts(NamedTuple):
    """What a batch of texts holds, each array [N]."""

    words: Counts
    """As `len(text.split())`."""
    bytes: Counts
    """In UTF-8."""
    special: npt.NDArray[np.bool_]
    """The text has whitespace beyond ASCII, or the mark U+2581."""


def count_texts(texts: Sequence[str]) -> TextCounts:
    """Count the words and UTF-8 bytes of every text."""
    joined = "\n".join(texts).encode()
    data = np.frombuffer(joined, dtype=np.uint8)
    byte_counts = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))  # right for ASCII
    special = np.zeros(len(texts), dtype=bool)
    ascii_only = len(joined) == byte_counts.sum() + max(0, len(texts) - 1)
    if not ascii_only:
        byte_counts = np.fromiter((len(text.encode()) for text in texts), dtype=np.int64, count=len(texts))
    ends = np.cumsum(byte_counts + 1)  # the joining line break included
    words = np.diff(np.searchsorted(_word_places(data), ends), prepend=0)
    if not ascii_only:
        special[np.searchsorted(ends, _special_places(data), side="right")] = True
        for document in np.flatnonzero(special).tolist():
            words[document] = count_words(texts[document])
    return TextCounts(words, byte_counts, special)


def _word_places(data: npt.NDArray[np.uint8]) -> Counts:
    """Byte offsets at which a word begins, ASCII whitespace being the only border."""
    space = data <= 32
    if np.count_nonzero(space) != np.count_nonzero(data == 32) + np.count_nonzero(data == 10):
        space = IS_SPACE[data]  # control characters are about: ask for each
    starts = np.empty_like(space)
    starts[:1] = ~space[:1]
    np.greater(space[:-1], space[1:], out=starts[1:])
    return np.flatnonzero(starts)


def _special_places(data: npt.NDArray[np.uint8]) -> Counts:
    """Byte offsets of the characters of `SPECIAL` in valid UTF-8."""
    two = np.flatnonzero((data & 0xE0) == 0xC0)
    three = np.flatnonzero((data & 0xF0) == 0xE0)
    two_codes = _bits(data[two], 0x1F) << 6 | _bits(data[two + 1], 0x3F)
    three_codes = _bits(data[three], 0x0F) << 12 | _bits(data[three + 1], 0x3F) << 6 | _bits(data[three + 2], 0x3F)
    return np.concatenate([two[SPECIAL[two_codes]], three[SPECIAL[three_codes]]])


def _bits(data: npt.NDArray[np.uint8], mask: int) -> npt.NDArray[np.uint16]:
    return (data & mask).astype(np.uint16)
