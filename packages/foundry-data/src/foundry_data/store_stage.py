"""The stages `train-<fingerprint>/` and `test-<fingerprint>/`: a split as a token store, whole or made in parts."""

import logging
import re
from pathlib import Path
from typing import NamedTuple

from foundry_config.errors import DataError
from foundry_data.digests import DigestCache
from foundry_data.fingerprint import fingerprint
from foundry_data.progress import Progress
from foundry_data.splits import VERSION, Split, stage_folder
from foundry_data.store import ChunkStore
from foundry_data.store_build import Part, build_store, merge_stores
from foundry_data.store_format import MANIFEST
from foundry_data.tokenizer import Tokenizer

ANNOUNCED_BYTES = 2**30  # a smaller store is read within a second or two

logger = logging.getLogger(__name__)


class StoreStage(NamedTuple):
    """How documents become a token store."""

    add_bos: bool
    add_eos: bool
    shard_tokens: int
    num_threads: int


class SplitStore(NamedTuple):
    """A token store to be made out of a split, or found."""

    name: str
    """`train` or `test`."""
    split: Split
    tokenizer: Tokenizer
    prepared: Path
    stage: StoreStage
    digests: DigestCache

    @property
    def identity(self) -> str:
        """Fingerprint of all that decides the tokens; how they are cut into files is not part of it."""
        return fingerprint(
            [VERSION, self.split.fingerprint, self.tokenizer.fingerprint, self.stage.add_bos, self.stage.add_eos]
        )

    @property
    def folder(self) -> Path:
        """Where the whole store goes."""
        return stage_folder(self.prepared, self.name, self.identity)

    def part_folder(self, part: Part) -> Path:
        """Return where one part goes."""
        return self.folder.with_name(f"{self.folder.name}.part-{part.number}-of-{part.of}")


def make_store(wanted: SplitStore, progress: Progress, *, part: Part | None = None, force: bool = False) -> ChunkStore:
    """Tokenize a split into its store, or open the one that is there.

    Raises:
        DataError: The store that is there is damaged, or the documents cannot be read.
        StorageError: The disk is full or cannot be written.
    """
    folder = wanted.folder if part is None else wanted.part_folder(part)
    if (folder / MANIFEST).is_file() and not force:
        return open_checked(folder, wanted.digests, progress)
    stage = wanted.stage
    expected = wanted.split.expected_bytes()
    if expected is not None and part is not None:
        expected //= part.of
    return build_store(
        wanted.split.documents(),
        wanted.tokenizer,
        folder,
        add_bos=stage.add_bos,
        add_eos=stage.add_eos,
        shard_tokens=stage.shard_tokens,
        num_threads=stage.num_threads,
        source=wanted.split.fingerprint,
        part=part,
        replace=force,
        progress=lambda done: progress(f"tokenizing {wanted.name}", done, expected),
    )


def warn_of_unknown(store: ChunkStore) -> None:
    """Say so if the tokenizer does not know all of the text that was made into `store`."""
    unknown, tokens = store.manifest.unknown_tokens, store.manifest.tokens
    if unknown:
        logger.warning(
            "%s of the %s training tokens (%.2g %%) are unknown to the tokenizer: the model learns nothing of what they"
            " spell; tokenizer.byte_fallback: true, or another tokenizer, knows all text",
            *(f"{unknown:,}", f"{tokens:,}", 100 * unknown / tokens),
        )


def open_checked(folder: Path, digests: DigestCache, progress: Progress) -> ChunkStore:
    """Open a store that an earlier process made, and compare the files that may have changed since with their hashes.

    Raises:
        DataError: A file is missing, or is not what was written; names it.
    """
    store = ChunkStore.open(folder)
    size = sum(entry.bytes for entry in store.manifest.files.values())
    if size >= ANNOUNCED_BYTES:
        progress(f"checking {folder.name}", 0, None)
    store.verify(digests.sha256)
    return store


def join_parts(wanted: SplitStore, progress: Progress) -> ChunkStore:
    """Join the parts of a split that several machines made; they are left where they are.

    Raises:
        DataError: There is no part, or one is missing, damaged or from a split into another number of parts.
        StorageError: The disk is full or cannot be written.
    """
    folder = wanted.folder
    if (folder / MANIFEST).is_file():
        return open_checked(folder, wanted.digests, progress)
    return merge_stores(
        _parts_of(wanted),
        folder,
        shard_tokens=wanted.stage.shard_tokens,
        progress=lambda done: progress("merging", done, None),
    )


def _parts_of(wanted: SplitStore) -> list[Path]:
    """Return the parts of a store that lie beside it: all of one number of parts, or as many as there are.

    Raises:
        DataError: There is none; names those of other inputs.
    """
    prepared = wanted.folder.parent
    found: dict[int, list[Path]] = {}
    others: list[str] = []
    for path in sorted(prepared.glob(f"{wanted.name}-*.part-*-of-*")):
        if match := re.fullmatch(r"(.+)\.part-\d+-of-(\d+)", path.name):
            if match[1] == wanted.folder.name:
                found.setdefault(int(match[2]), []).append(path)
            else:
                others.append(path.name)
    if not found:
        foreign = (
            f"; {', '.join(others[:3])} {'was' if len(others) == 1 else 'were'} made from other inputs or settings"
        )
        raise DataError(
            f"there are no parts of {wanted.folder} to join{foreign if others else ''}; "
            "make them with `foundry preprocess --shard 1/N`"
        )
    return min(found.items(), key=lambda item: (item[0] - len(item[1]), item[0]))[1]
