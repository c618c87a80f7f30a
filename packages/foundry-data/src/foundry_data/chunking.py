"""Cut a stream of token sequences into fixed-length chunks.

    [a b c] [d e] [f g h i]   --length 4-->   [a b c d] [e f g h]   (i is left over)

Sequences are joined end to end, so nothing is lost at a document border; only the last, short remainder of the whole
stream is. Nothing here touches disk: see `store.py` for that.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.integer[Any]]


def chunk_stream(sequences: Iterable[Tokens], chunk_size: int) -> Iterator[Tokens]:
    """Yield consecutive chunks of exactly `chunk_size` tokens.

    Args:
        sequences: Token ids of one document each, 1-D; empty ones are allowed.
        chunk_size: Tokens per chunk.

    Yields:
        Token ids in the order of the stream. [chunk_size]

    Raises:
        ValueError: `chunk_size` is not positive.

    >>> [c.tolist() for c in chunk_stream([np.arange(3), np.arange(3, 9)], chunk_size=4)]
    [[0, 1, 2, 3], [4, 5, 6, 7]]
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    waiting: list[Tokens] = []
    size = 0
    for sequence in sequences:
        waiting.append(sequence)
        size += len(sequence)
        if size >= chunk_size:
            joined = np.concatenate(waiting)
            whole = size // chunk_size * chunk_size
            yield from joined[:whole].reshape(-1, chunk_size)
            waiting, size = [joined[whole:]], size - whole
