"""Read a token store: one long stream of token ids on disk, mapped into memory, cut into chunks when it is read.

    store = ChunkStore.open("data/prepared/train-1f0c5a27bd10")
    store.read(0, 6)              -> [5 9 4 3 7 7]                                    any range of the stream
    store.chunks(4)[1]            -> the tokens 4 to 7                                a sequence of fixed-length chunks
    store.words_between(0, 6)     -> the words of the text that begin in these tokens
    store.document(7)             -> the tokens of one document

Opening checks names, sizes and the manifest's own digest, in time that does not depend on the size; `verify` reads all.
A file whose size changes later, while the store is in use, is named in a `DataError` by whatever reads it next.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from foundry_config.errors import DataError
from foundry_data import store_format as layout
from foundry_data.fs import sha256_file
from foundry_data.mapped_stream import MappedFile, MappedStream, Positions
from foundry_data.store_format import StoreManifest

Tokens = npt.NDArray[np.unsignedinteger[Any]]


def _read_all(paths: Sequence[Path]) -> list[str]:
    return [sha256_file(path) for path in paths]


class ChunkStore:
    """A finished token store, open for reading."""

    def __init__(self, folder: Path, manifest: StoreManifest) -> None:
        """Map the files of `folder`; use `ChunkStore.open`, which checks them first."""
        self.folder = folder
        self.manifest = manifest
        shards = range(manifest.shards)
        tokens = [folder / layout.tokens_name(i) for i in shards]
        self._tokens = MappedStream(tokens, layout.DTYPES[manifest.dtype], manifest.shard_tokens)
        words = [folder / layout.words_name(i) for i in shards]
        self._words = MappedStream(words, np.dtype("u1"), manifest.shard_tokens)
        self._word_totals = MappedFile(folder / layout.WORD_TOTALS, layout.INT64)
        self._document_starts = MappedFile(folder / layout.DOCUMENT_TOKENS, layout.INT64)
        self._document_words = MappedFile(folder / layout.DOCUMENT_WORDS, layout.INT64)
        self._document_bytes = MappedFile(folder / layout.DOCUMENT_BYTES, layout.INT64)
        self._token_bytes = MappedFile(folder / layout.TOKEN_BYTES, np.dtype("<u2"))

    @classmethod
    def open(cls, folder: str | Path) -> "ChunkStore":
        """Open the store in `folder`.

        Raises:
            DataError: It is no store, was written by a newer version, or a file is missing or has another size.
        """
        path = Path(folder)
        manifest = layout.read_manifest(path)
        layout.check_sizes(path, manifest)
        return cls(path, manifest)

    def __len__(self) -> int:
        """Number of tokens."""
        return self.manifest.tokens

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the ids on disk."""
        return layout.DTYPES[self.manifest.dtype]

    @property
    def document_starts(self) -> Positions:
        """First token of each document, and the end of the last. [documents + 1]"""
        return self._document_starts.numbers

    @property
    def document_words(self) -> Positions:
        """Words before each document, and all of them. [documents + 1]"""
        return self._document_words.numbers

    @property
    def document_bytes(self) -> Positions:
        """Bytes of text before each document, and all of them. [documents + 1]"""
        return self._document_bytes.numbers

    @property
    def token_bytes(self) -> npt.NDArray[np.uint16]:
        """Bytes of text that each id stands for. [vocabulary]"""
        return self._token_bytes.numbers

    def read(self, start: int, stop: int) -> Tokens:
        """Return the tokens [stop - start] of a range of the stream; a view where one file holds it, read-only.

        Raises:
            IndexError: The range leaves the stream.
        """
        return self._tokens.read(start, stop)

    def word_starts(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return for each token of a range the words that begin in it. [stop - start]"""
        return self._words.read(start, stop)

    def gather(self, starts: Positions, length: int, *, out: Tokens | None = None) -> Tokens:
        """Return `length` tokens from each of `starts`. [B, length], a copy, in `out` if that is given

        Raises:
            IndexError: A range leaves the stream.
        """
        return self._tokens.gather(starts, length, out=out)

    def words_between(self, start: int, stop: int) -> int:
        """Return the number of words that begin in the tokens of a range."""
        first, last = self.words_before(np.array([start, stop], dtype=np.int64)).tolist()
        return last - first

    def words_before(self, positions: Positions) -> Positions:
        """Return the words that begin before each position of the stream, any shape, positions from 0 to its length."""
        stride = layout.WORD_TOTALS_STRIDE
        blocks = positions // stride
        inside = positions - blocks * stride
        totals = self._word_totals.numbers[blocks]
        if inside.any():
            flat = blocks.ravel() * stride
            heads = np.minimum(flat, max(0, len(self) - stride))  # the last block may be short
            counts = self._words.gather(heads, min(stride, len(self)))
            offsets = (flat - heads)[:, None]
            columns = np.arange(counts.shape[1], dtype=np.int64)
            mask: npt.NDArray[np.bool_] = (columns >= offsets) & (columns < offsets + inside.ravel()[:, None])
            totals = totals + np.where(mask, counts, 0).sum(axis=1, dtype=np.int64).reshape(totals.shape)
        return totals

    def document(self, index: int) -> Tokens:
        """Return the tokens of one document, its BOS and EOS included."""
        return self.read(int(self.document_starts[index]), int(self.document_starts[index + 1]))

    def document_at(self, positions: Positions) -> Positions:
        """Return the document that holds each position of the stream."""
        return np.searchsorted(self.document_starts, positions, side="right") - 1

    def chunks(self, length: int) -> "Chunks":
        """Return the stream as a sequence of chunks of `length` tokens; the last, short remainder is left out."""
        return Chunks(self, length)

    def verify(self, sha256: Callable[[Sequence[Path]], Sequence[str]] = _read_all) -> None:
        """Compare every file with the manifest.

        Args:
            sha256: Gives the digests of files; the default reads them all, `DigestCache.sha256` those that are new.

        Raises:
            DataError: Names every file whose content is not what was written.
        """
        layout.check_sizes(self.folder, self.manifest)
        files = self.manifest.files
        found = sha256([self.folder / name for name in files])
        damaged = [name for name, digest in zip(files, found, strict=True) if digest != files[name].sha256]
        if damaged:
            raise DataError(
                f"token store {self.folder} is damaged: {', '.join(damaged)} differs from what was written; "
                "restore it, or run `foundry preprocess --force`"
            )


class Chunks(Sequence[Tokens]):
    """A store as a sequence of chunks: chunk i is the tokens from i * length to (i + 1) * length."""

    def __init__(self, store: ChunkStore, length: int) -> None:
        if length < 1:
            raise ValueError(f"a chunk needs at least one token, not {length}")
        self.store = store
        self.length = length
        self.remainder = len(store) % length
        """Tokens at the end of the stream that fill no chunk."""

    def __len__(self) -> int:
        return len(self.store) // self.length

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # raises IndexError, counts negative ones from the end
        return self.store.read(place * self.length, (place + 1) * self.length)

    def gather(self, indices: Positions) -> Tokens:
        """Return several chunks at once. [B, T]"""
        return self.store.gather(indices * self.length, self.length)
