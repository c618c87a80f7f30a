"""Keep the row index of a best-fit packing beside the store that it was made for.

    train-1f0c.../packing-best_fit-512/
    ├─ first.bin  starts.bin  lengths.bin        int64, see `row_index.py`
    └─ index.json                                their sizes and hashes, and which documents they belong to

The index follows from the store, so it is only ever a saving of time: one that is damaged, or belongs to other
documents, is made again, and where the folder cannot be written it is made for this process alone.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from foundry_config.errors import StorageError
from foundry_data import fs
from foundry_data.row_index import RowIndex
from foundry_data.stages import building_lock, publish, start_building, storage_errors
from foundry_data.store import ChunkStore
from foundry_data.store_format import DOCUMENT_TOKENS, INT64, FileEntry
from foundry_data.store_writer import as_bytes

logger = logging.getLogger(__name__)

VERSION = 1  # raised when the same documents would be packed otherwise
INDEX = "index.json"


class _IndexManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    documents: str
    """SHA-256 of the file of document borders."""
    files: dict[str, FileEntry]


def cached_index(store: ChunkStore, name: str, length: int, make: Callable[[], RowIndex]) -> RowIndex:
    """Return the index that was kept under `name` for rows of `length` tokens, or make and keep it."""
    folder = store.folder / f"packing-{name}-{length}"
    found = _read(folder, store)
    if found is not None:
        return found
    index = make()
    try:
        with storage_errors(folder), building_lock(folder):
            _write(folder, store, index)
    except StorageError as error:
        logger.warning("the packing of %s is not kept for next time: %s", store.folder, error)
    return index


def _read(folder: Path, store: ChunkStore) -> RowIndex | None:
    try:
        manifest = msgspec.json.decode((folder / INDEX).read_bytes(), type=_IndexManifest)
        whole = all(fs.sha256_file(folder / name) == entry.sha256 for name, entry in manifest.files.items())
    except (OSError, msgspec.DecodeError):
        return None
    if manifest.version != VERSION or manifest.documents != _documents(store) or not whole:
        return None
    if set(manifest.files) != {_file_name(field) for field in RowIndex._fields}:
        return None
    return RowIndex(*(np.fromfile(folder / _file_name(field), dtype=INT64) for field in RowIndex._fields))


def _write(folder: Path, store: ChunkStore, index: RowIndex) -> None:
    building = start_building(folder)
    files: dict[str, FileEntry] = {}
    for field, values in zip(RowIndex._fields, index, strict=True):
        written = fs.write_new(building / _file_name(field), [as_bytes(values.astype(INT64))])
        files[_file_name(field)] = FileEntry(written.bytes, written.sha256)
    manifest = _IndexManifest(VERSION, _documents(store), files)
    fs.write_new(building / INDEX, [msgspec.json.encode(manifest)])
    publish(building, folder)


def _documents(store: ChunkStore) -> str:
    return store.manifest.files[DOCUMENT_TOKENS].sha256


def _file_name(field: str) -> str:
    return f"{field}.bin"
