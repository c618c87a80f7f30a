"""What a person wants to know about prepared data: counts of a store, and the very texts behind a batch.

store_counts(store)                          {'documents': 5580, 'words': 286903, 'bytes_per_token': 3.204, ...}
row_texts(rows, tokenizer, [17, 4])          ['... the text of row 17 ...', '... of row 4 ...']
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from foundry_data.packing import Rows
from foundry_data.store import ChunkStore
from foundry_data.tokenizer import Tokenizer


def store_counts(store: ChunkStore) -> dict[str, Any]:
    """Return the counts in the manifest of a store, and what follows from them."""
    manifest = store.manifest
    return {
        "folder": str(store.folder),
        "documents": manifest.documents,
        "words": manifest.words,
        "bytes": manifest.bytes,
        "tokens": manifest.tokens,
        "unknown_tokens": manifest.unknown_tokens,
        "bytes_per_token": round(manifest.bytes / manifest.tokens, 3) if manifest.tokens else None,
    }


def row_counts(rows: Rows) -> dict[str, int]:
    """Return how many sequences a packing makes, and what it costs: padding, and tokens that are in no sequence."""
    return {"sequences": len(rows), **rows.losses}


def document_lengths(store: ChunkStore) -> dict[str, float]:
    """Return shortest, median, mean and longest document, in tokens with their BOS and EOS."""
    lengths = np.diff(store.document_starts)
    if not len(lengths):
        return {}
    return {
        "shortest": int(lengths.min()),
        "median": float(np.median(lengths)),
        "mean": round(float(lengths.mean()), 1),
        "longest": int(lengths.max()),
    }


def row_texts(rows: Rows, tokenizer: Tokenizer, indices: Sequence[int]) -> list[str]:
    """Return the text of each row, special tokens spelled out, padding left off.

    Args:
        rows: A packed store.
        tokenizer: The one that made it.
        indices: Rows, for example `GlobalBatch.sequence_ids`.
    """
    wanted = np.asarray(indices, dtype=np.int64)
    input_ids, counts = rows.gather(wanted).input_ids, rows.tokens(wanted)
    return [
        tokenizer.decode(ids[:count], skip_special_tokens=False)
        for ids, count in zip(input_ids, counts.tolist(), strict=True)
    ]
