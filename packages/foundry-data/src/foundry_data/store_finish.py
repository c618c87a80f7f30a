"""Turn the files of a completed build into a store: the arrays about documents, the word totals and the manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from foundry_data import fs
from foundry_data import store_format as layout
from foundry_data.store_format import FileEntry, StoreManifest
from foundry_data.store_writer import ShardRecord, StoreHeader, as_bytes, document_parts


def finish_store(
    folder: Path, header: StoreHeader, records: Sequence[ShardRecord], token_bytes: npt.NDArray[np.uint16]
) -> StoreManifest:
    """Write what only the whole build can know, last of all the manifest, and remove the records.

    Args:
        folder: The building folder, all blocks written.
        header: As given to the `StoreWriter`.
        records: One per finished file, the last of them marked `last`.
        token_bytes: Bytes of text that each entry of the vocabulary stands for. [V]
    """
    state = records[-1]
    files = {
        name: entry for record in records for name, entry in record.files.items() if name not in _parts(record)
    }  # fmt: skip
    tokens, words, byte_counts, block_sizes = _document_columns(folder, records)
    arrays = {
        layout.DOCUMENT_TOKENS: _cumulative(tokens),
        layout.DOCUMENT_WORDS: _cumulative(words),
        layout.DOCUMENT_BYTES: _cumulative(byte_counts),
        layout.WORD_TOTALS: _word_totals(folder, records),
        layout.BLOCKS: block_sizes,
        layout.TOKEN_BYTES: token_bytes.astype("<u2"),
    }
    for name, values in arrays.items():
        written = fs.write_new(folder / name, [as_bytes(values)])
        files[name] = FileEntry(written.bytes, written.sha256)
    manifest = StoreManifest(
        **msgspec.structs.asdict(header),
        format=layout.FORMAT,
        tokens=state.tokens,
        documents=len(tokens),
        blocks=state.blocks,
        words=int(words.sum()),
        bytes=int(byte_counts.sum()),
        max_id=state.max_id,
        unknown_tokens=state.unknown_tokens,
        token_byte_sum=state.token_byte_sum,
        bytes_exact=state.bytes_exact,
        files=dict(sorted(files.items())),
    )
    fs.write_atomic(folder / layout.MANIFEST, layout.encode_manifest(manifest))
    for path in sorted(folder.iterdir()):
        if path.name not in files and path.name != layout.MANIFEST:
            fs.backend().unlink(path)
    return manifest


def _document_columns(folder: Path, records: Sequence[ShardRecord]) -> list[npt.NDArray[np.int64]]:
    """Tokens, words and bytes of every document, and documents of every block."""
    names = [document_parts(record.shard) for record in records]
    return [
        np.concatenate([np.fromfile(folder / parts[column], dtype=layout.INT64) for parts in names])
        for column in range(4)
    ]


def _parts(record: ShardRecord) -> list[str]:
    return document_parts(record.shard)


def _cumulative(values: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    return np.concatenate([[0], np.cumsum(values)]).astype(layout.INT64)


def _word_totals(folder: Path, records: Sequence[ShardRecord]) -> npt.NDArray[Any]:
    """Words before every `WORD_TOTALS_STRIDE`-th token."""
    stride = layout.WORD_TOTALS_STRIDE
    sums, carry = [np.zeros(1, dtype=np.int64)], np.empty(0, dtype=np.uint8)
    for record in records:
        name = layout.words_name(record.shard)
        if name in record.files:
            values = np.concatenate([carry, np.fromfile(folder / name, dtype=np.uint8)])
            whole = len(values) // stride * stride
            sums.append(values[:whole].reshape(-1, stride).sum(axis=1, dtype=np.int64))
            carry = values[whole:]
    return np.cumsum(np.concatenate(sums)).astype(layout.INT64)
