"""Write a token store from blocks, file by file, so that a build that dies goes on after the last finished file.

    block 0   block 1    block 2              blocks are cut where the documents were batched,
    |---------|----------|------...           files where they are full
    [ shard 0      ][ shard 1      ][ ...

After every full file a record says how far it reaches: `blocks` whole blocks, and `offset` tokens of the next one. A
later build skips those blocks unseen, makes the next one again, drops its first `offset` tokens, and so writes the
same bytes as a build that never stopped.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from foundry_data import fs
from foundry_data import store_format as layout
from foundry_data.encoding import EncodedBlock
from foundry_data.fingerprint import fingerprint
from foundry_data.progress import TokenizedBytes
from foundry_data.store_format import FileEntry

BlockSource = Callable[[int], Iterator[EncodedBlock]]
"""Given how many blocks to skip, yields the others."""


class StoreHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a store before its first token; the fields of `StoreManifest`."""

    dtype: str
    shard_tokens: int
    vocab_size: int
    pad_id: int | None
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    add_eos: bool
    dummy_prefix: bool
    tokenizer: str
    source: str
    settings: dict[str, Any]


class ShardRecord(msgspec.Struct, kw_only=True):
    """State of a build after a finished file; each number counts from the start of the stream."""

    build: str
    """Fingerprint of the header: a record of another build is not continued."""
    shard: int
    blocks: int
    offset: int
    tokens: int
    last: bool
    unknown_tokens: int
    token_byte_sum: int
    bytes_exact: bool
    max_id: int
    files: dict[str, FileEntry]
    """The files written since the record before."""


class StoreWriter:
    """Puts the blocks of a store into the files of one building folder."""

    def __init__(self, folder: Path, header: StoreHeader) -> None:
        """Take up the build in `folder`, an existing directory, or start it."""
        self.folder = folder
        self.header = header
        self._build = fingerprint(header)
        self.records = self._finished_records()
        self._remove_unrecorded_files()
        # A copy: the state moves on, the record of a finished file does not.
        self._state = msgspec.structs.replace(self.records[-1]) if self.records else self._first_record()
        self._blocks: list[EncodedBlock] = []  # finished since the last record
        self._tokens: _FileWriter | None = None
        self._words: _FileWriter | None = None

    def write(self, blocks: BlockSource, *, progress: Callable[[int], None] | None = None) -> None:
        """Write all blocks that are not yet on disk.

        Args:
            blocks: Must yield the same blocks whenever it is called.
            progress: Called after every block with the bytes of text written by this call.
        """
        if self._state.last:
            return
        done, tokens, skip = 0, 0, self._state.offset
        try:
            for block in blocks(self._state.blocks):
                self._append(block, skip)
                skip = 0
                done += int(block.bytes.sum())
                tokens += len(block.tokens)
                if progress is not None:
                    progress(TokenizedBytes(done, tokens=tokens))
            self._close_shard(last=True)
        finally:
            for writer in (self._tokens, self._words):
                if writer is not None:
                    writer.abandon()

    def _append(self, block: EncodedBlock, skip: int) -> None:
        position = skip
        while position < len(block.tokens):
            end = min(len(block.tokens), position + self._room())
            self._write_tokens(block.tokens[position:end], block.word_starts[position:end])
            position = end
            if self._room() == 0 and position < len(block.tokens):
                self._state.offset = position
                self._close_shard(last=False)
        self._count(block)
        if self._room() == 0:
            self._close_shard(last=False)

    def _room(self) -> int:
        """Tokens that still fit into the file of the moment."""
        return self.header.shard_tokens - (self._tokens.count if self._tokens else 0)

    def _count(self, block: EncodedBlock) -> None:
        """Credit a block whose last token is written."""
        state = self._state
        self._blocks.append(block)
        state.blocks += 1
        state.offset = 0
        state.unknown_tokens += block.unknown
        state.token_byte_sum += block.token_bytes
        state.bytes_exact &= block.bytes_exact
        if len(block.tokens):
            state.max_id = max(state.max_id, int(block.tokens.max()))

    def _write_tokens(self, tokens: npt.NDArray[Any], words: npt.NDArray[np.uint8]) -> None:
        if self._tokens is None or self._words is None:
            shard = self._state.shard + 1
            self._tokens = _FileWriter(self.folder / layout.tokens_name(shard), layout.DTYPES[self.header.dtype])
            self._words = _FileWriter(self.folder / layout.words_name(shard), np.dtype("u1"))
        self._tokens.write(tokens)
        self._words.write(words)

    def _close_shard(self, *, last: bool) -> None:
        state = self._state
        files: dict[str, FileEntry] = {}
        if self._tokens is not None and self._words is not None:
            state.tokens += self._tokens.count
            files = {writer.path.name: writer.finish() for writer in (self._tokens, self._words)}
            self._tokens = self._words = None
        state.shard += 1
        state.last = last
        state.files = files | self._write_documents(state.shard)
        fs.write_atomic(self.folder / _record_name(state.shard), msgspec.json.encode(state))
        self.records.append(msgspec.structs.replace(state))

    def _write_documents(self, shard: int) -> dict[str, FileEntry]:
        columns = [
            np.concatenate([np.empty(0, dtype=np.int64), *(getattr(block, field) for block in self._blocks)])
            for field in ("lengths", "words", "bytes")
        ]
        sizes = np.array([len(block.lengths) for block in self._blocks], dtype=layout.INT64)
        self._blocks = []
        written: dict[str, FileEntry] = {}
        for name, values in zip(document_parts(shard), [*columns, sizes], strict=True):
            entry = fs.write_new(self.folder / name, [as_bytes(values.astype(layout.INT64))])
            written[name] = FileEntry(entry.bytes, entry.sha256)
        return written

    def _first_record(self) -> ShardRecord:
        return ShardRecord(
            build=self._build, shard=-1, blocks=0, offset=0, tokens=0, last=False,
            unknown_tokens=0, token_byte_sum=0, bytes_exact=True, max_id=-1, files={},
        )  # fmt: skip

    def _finished_records(self) -> list[ShardRecord]:
        """Return the records of this build, from the first on, as long as their files are whole."""
        records: list[ShardRecord] = []
        while (path := self.folder / _record_name(len(records))).exists():
            try:
                record = msgspec.json.decode(path.read_bytes(), type=ShardRecord)
            except msgspec.DecodeError:
                break
            if record.build != self._build or not all(self._is_whole(n, entry) for n, entry in record.files.items()):
                break
            records.append(record)
        return records

    def _is_whole(self, name: str, entry: FileEntry) -> bool:
        path = self.folder / name
        return path.is_file() and path.stat().st_size == entry.bytes and fs.sha256_file(path) == entry.sha256

    def _remove_unrecorded_files(self) -> None:
        known = {name for record in self.records for name in record.files}
        known |= {_record_name(record.shard) for record in self.records}
        for path in sorted(self.folder.iterdir()):
            if path.name not in known:
                fs.backend().unlink(path)


class _FileWriter:
    """A file that grows by arrays, hashed while it is written."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.count = 0
        self._dtype = dtype
        self._digest = hashlib.sha256()
        self._descriptor: int | None = fs.backend().open_new(path)

    def write(self, values: npt.NDArray[Any]) -> None:
        if self._descriptor is None:
            raise AssertionError("the file is closed")
        view = as_bytes(np.ascontiguousarray(values, dtype=self._dtype))
        self._digest.update(view)
        self.count += len(values)
        while len(view):
            view = view[fs.backend().write(self._descriptor, view) :]

    def finish(self) -> FileEntry:
        """Sync and close; returns size and digest."""
        if self._descriptor is None:
            raise AssertionError("the file is closed")
        descriptor, self._descriptor = self._descriptor, None
        try:
            fs.backend().fsync(descriptor)
        finally:
            fs.backend().close(descriptor)
        return FileEntry(self.count * self._dtype.itemsize, self._digest.hexdigest())

    def abandon(self) -> None:
        """Close without a promise; the file has no record, so the next build removes it."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            fs.backend().close(descriptor)


def as_bytes(values: npt.NDArray[Any]) -> memoryview:
    """Return the bytes of an array, without a copy if it lies in one piece."""
    return memoryview(np.ascontiguousarray(values).view(np.uint8).data).cast("B")


def _record_name(shard: int) -> str:
    return f"record-{shard:05d}.json"


def document_parts(shard: int) -> list[str]:
    """Names of the files that keep, until the end, tokens, words and bytes of documents, and documents of blocks."""
    return [f"part-{column}-{shard:05d}.bin" for column in ("tokens", "words", "bytes", "blocks")]
