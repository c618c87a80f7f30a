"""Build token stores: from texts, from token ids that exist already, or from the parts that several machines made.

    build_store(documents, tokenizer, Path("prepared/train"))                        the usual way
    build_store(documents, tokenizer, Path("part-3"), part=Part(3, 16))              the third of 16 parts
    merge_stores([Path("part-1"), ..., Path("part-16")], Path("prepared/train"))     the same bytes as without parts

Part i of n tokenizes every n-th block of documents, the first from block i - 1, and reads over the others; so parts
need no count of documents beforehand, and are about equal in work.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict

from foundry_config.errors import DataError
from foundry_data import fs
from foundry_data.documents import Document
from foundry_data.encoding import Encoder, batches_of_texts, encode_documents
from foundry_data.id_blocks import blocks_of_ids
from foundry_data.merging import check_parts, merged_blocks, merged_header
from foundry_data.stages import building_folder, building_lock, publish, start_building, storage_errors
from foundry_data.store import ChunkStore
from foundry_data.store_finish import finish_store
from foundry_data.store_format import read_manifest, token_dtype
from foundry_data.store_writer import BlockSource, StoreHeader, StoreWriter
from foundry_data.tokenizer import Tokenizer
from foundry_data.word_starts import surface_table

SHARD_TOKENS = 2**28

Progress = Callable[[int], None]


class Part(NamedTuple):
    """One of the parts into which a store is split to be built by several machines, counted from 1."""

    number: int
    of: int


def build_store(
    documents: Iterable[str | Document],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    add_bos: bool = False,
    add_eos: bool = True,
    shard_tokens: int = SHARD_TOKENS,
    num_threads: int = 1,
    source: str = "",
    settings: Mapping[str, Any] | None = None,
    part: Part | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> ChunkStore:
    """Tokenize documents into a store at `folder`, whole or not at all.

    With a `source`, a build that died is taken up where its last finished file ends, and a store that is there already
    from the same inputs is opened as it is. Without one nobody can know whether the documents are the same.

    Args:
        documents: Texts, in the order of the stream.
        tokenizer: What encodes them.
        folder: Becomes the store.
        add_bos: Put a BOS token before every document.
        add_eos: Put an EOS token after every document.
        shard_tokens: Tokens per file.
        num_threads: Threads that tokenize; the bytes are the same for any number.
        source: Fingerprint of the documents, such as `DocumentStream.fingerprint()`.
        settings: What else decided the content, for the manifest.
        part: Build only this part.
        replace: Build again even if `folder` exists.
        progress: Called after every block with the bytes of text tokenized by this call; what it raises ends the
            build, which can be taken up later.

    Raises:
        DataError: The tokenizer lacks a token that is asked for; the folder holds a store from other or unknown
            inputs; or the documents raise it.
        StorageError: The disk is full or cannot be written.
    """
    encoder = Encoder(tokenizer, add_bos=add_bos, add_eos=add_eos)
    stated = dict(settings or {}) | ({"part": list(part)} if part else {})
    header = _header(tokenizer, add_bos, add_eos, tokenizer.has_dummy_prefix, shard_tokens, source, stated)
    first, step = (part.number - 1, part.of) if part else (0, 1)

    def blocks(skip: int) -> Iterator[Any]:
        mine = islice(batches_of_texts(documents), first, None, step)
        return encode_documents(islice(mine, skip, None), encoder, num_threads=num_threads)

    return _build(folder, header, blocks, encoder.table.byte_lengths, progress, replace=replace)


def build_store_from_ids(
    sequences: Iterable[npt.NDArray[np.integer]],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    source: str = "",
    settings: Mapping[str, Any] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> ChunkStore:
    """Put sequences of token ids into a store as they are, each counted as a document.

    Words and bytes are those that the vocabulary says the tokens stand for.

    Args:
        sequences: 1-D integer arrays, all ids of `tokenizer`.
        tokenizer, folder, shard_tokens, source, settings, replace, progress: See `build_store`.

    Raises:
        DataError: An id is negative or not in the vocabulary; the message names the sequence.
    """
    table = surface_table(tokenizer)
    header = _header(tokenizer, False, False, False, shard_tokens, source, dict(settings or {}))

    def blocks(skip: int) -> Iterator[Any]:
        return islice(blocks_of_ids(sequences, tokenizer, table), skip, None)

    return _build(folder, header, blocks, table.byte_lengths, progress, replace=replace)


def merge_stores(
    parts: Sequence[Path], folder: Path, *, shard_tokens: int = SHARD_TOKENS, progress: Progress | None = None
) -> ChunkStore:
    """Join the parts 1 to n of a store, given in any order; the result has the bytes of a build without parts.

    Raises:
        DataError: A part is missing, damaged, doubled, or made from other inputs than the first.
    """
    stores = check_parts([ChunkStore.open(path) for path in parts])
    for store in stores:
        store.verify()
    header = merged_header(stores, shard_tokens)
    token_bytes = np.array(stores[0].token_bytes)
    blocks = merged_blocks(stores)
    return _build(folder, header, lambda skip: islice(blocks, skip, None), token_bytes, progress, replace=False)


def _build(
    folder: Path,
    header: StoreHeader,
    blocks: BlockSource,
    token_bytes: npt.NDArray[np.uint16],
    progress: Progress | None,
    *,
    replace: bool,
) -> ChunkStore:
    with storage_errors(folder), building_lock(folder, waiting=lambda: progress(0) if progress else None):
        if folder.exists() and not replace:
            return _reuse(folder, header)
        building = building_folder(folder) if header.source else start_building(folder)
        fs.make_directories(building)
        writer = StoreWriter(building, header)
        writer.write(blocks, progress=progress)
        finish_store(building, header, writer.records, token_bytes)
        publish(building, folder)
    return ChunkStore.open(folder)


def _reuse(folder: Path, header: StoreHeader) -> ChunkStore:
    """Open the store that somebody else, or an earlier call, made from the same inputs.

    Raises:
        DataError: It was made from others, or it cannot be known.
    """
    manifest = read_manifest(folder)
    ignored = ("shard_tokens",)  # how the stream is cut into files says nothing about the stream
    same = all(getattr(manifest, name) == value for name, value in asdict(header).items() if name not in ignored)
    if not (same and header.source):
        raise DataError(
            f"token store {folder} exists and was built from other inputs, or from unknown ones; "
            "name another folder, or build it with replace=True"
        )
    return ChunkStore.open(folder)


def _header(
    tokenizer: Tokenizer,
    add_bos: bool,
    add_eos: bool,
    dummy_prefix: bool,
    shard_tokens: int,
    source: str,
    settings: dict[str, Any],
) -> StoreHeader:
    if shard_tokens < 1:
        raise DataError(f"data.shard_tokens is {shard_tokens}; it must be at least 1")
    return StoreHeader(
        dtype=token_dtype(tokenizer.vocab_size),
        shard_tokens=shard_tokens,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        add_bos=add_bos,
        add_eos=add_eos,
        dummy_prefix=dummy_prefix,
        tokenizer=tokenizer.fingerprint,
        source=source,
        settings=settings,
    )
