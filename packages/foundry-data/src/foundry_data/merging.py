"""Put the parts of a store back into the order of the documents, block by block.

part 1 of 3   [0] [3] [6]
part 2 of 3   [1] [4]          ->   [0] [1] [2] [3] [4] [5] [6]
part 3 of 3   [2] [5]
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from foundry_config.errors import DataError
from foundry_data import store_format as layout
from foundry_data.encoding import EncodedBlock
from foundry_data.store import ChunkStore
from foundry_data.store_writer import StoreHeader

SHOWN_PARTS = 8  # of those that are missing


def check_parts(stores: Sequence[ChunkStore]) -> list[ChunkStore]:
    """Return the parts in order.

    Raises:
        DataError: They are not exactly the parts 1 to n of one store.
    """
    numbered: dict[int, ChunkStore] = {}
    whole = 0
    for store in stores:
        number, of = _part(store)
        whole = whole or of
        if of != whole:
            raise DataError(f"{store.folder} is part {number} of {of}, but {stores[0].folder} is one of {whole} parts")
        if number in numbered:
            raise DataError(f"{store.folder} and {numbered[number].folder} are both part {number} of {of}")
        if (difference := _difference(stores[0], store)) is not None:
            raise DataError(f"{store.folder} and {stores[0].folder} were made from other inputs: {difference} differs")
        numbered[number] = store
    if not numbered:
        raise DataError("there are no parts to merge")
    if missing := [number for number in range(1, whole + 1) if number not in numbered]:
        raise DataError(_missing(missing, whole, numbered[min(numbered)]))
    return [numbered[number] for number in sorted(numbered)]


def _missing(numbers: list[int], of: int, one: ChunkStore) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN_PARTS])) + ", ..." * (len(numbers) > SHOWN_PARTS)
    are = f"part {shown} of {of} is" if len(numbers) == 1 else f"parts {shown} of {of} are"
    return f"{are} missing beside {one.folder}; make it with `foundry preprocess --shard {numbers[0]}/{of}`"


def _part(store: ChunkStore) -> tuple[int, int]:
    part = store.manifest.settings.get("part")
    if not isinstance(part, list):
        raise DataError(f"{store.folder} is a whole store, not a part made with --shard")
    number, of = part  # pyright: ignore[reportUnknownVariableType]
    return int(number), int(of)  # pyright: ignore[reportUnknownArgumentType]


def _difference(first: ChunkStore, other: ChunkStore) -> str | None:
    """Name a field of the headers, parts aside, in which two stores differ."""
    ours, theirs = (msgspec.structs.asdict(merged_header([store], 1)) for store in (first, other))
    return next((name for name in ours if ours[name] != theirs[name]), None)


def merged_header(stores: Sequence[ChunkStore], shard_tokens: int) -> StoreHeader:
    """Return the header of the whole store."""
    manifest = stores[0].manifest
    fields: dict[str, Any] = {name: getattr(manifest, name) for name in StoreHeader.__struct_fields__}
    fields["settings"] = {key: value for key, value in manifest.settings.items() if key != "part"}
    fields["shard_tokens"] = shard_tokens
    return StoreHeader(**fields)


def merged_blocks(stores: Sequence[ChunkStore]) -> Iterator[EncodedBlock]:
    """Yield the blocks of all parts in the order of the documents."""
    sources = [_blocks(store) for store in stores]
    while sources:
        for place, source in enumerate(sources):
            block = next(source, None)
            if block is None:  # parts end in order, so no later part has a block either
                sources = sources[:place]
                break
            yield block


def _blocks(store: ChunkStore) -> Iterator[EncodedBlock]:
    manifest = store.manifest
    sizes = np.fromfile(store.folder / layout.BLOCKS, dtype=layout.INT64)
    first = 0
    for place, size in enumerate(sizes.tolist()):
        documents = slice(first, first + size + 1)
        starts = store.document_starts[documents]
        begin, end = int(starts[0]), int(starts[-1])
        totals: dict[str, Any] = {"unknown": 0, "token_bytes": 0, "bytes_exact": True}
        if place == 0:  # what is only known of the part as a whole
            totals = {
                "unknown": manifest.unknown_tokens,
                "token_bytes": manifest.token_byte_sum,
                "bytes_exact": manifest.bytes_exact,
            }
        yield EncodedBlock(
            tokens=store.read(begin, end),
            word_starts=store.word_starts(begin, end),
            lengths=np.diff(starts),
            words=np.diff(store.document_words[documents]),
            bytes=np.diff(store.document_bytes[documents]),
            **totals,
        )
        first += size
