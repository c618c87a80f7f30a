"""The stage `text-<fingerprint>/`: training documents after `dataset_manipulation`, with the receipts of its steps.

Only experiments with steps have it. The held-out split is never ablated, so that every ablation is measured on the same
text.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from foundry_config.errors import DataError
from foundry_data import fs
from foundry_data.digests import DigestCache
from foundry_data.documents import Document, ReadSettings
from foundry_data.fingerprint import fingerprint
from foundry_data.progress import Progress
from foundry_data.readers import DocumentStream
from foundry_data.splits import Corpus, Split, stage_folder
from foundry_data.stages import building_lock, publish, start_building, storage_errors
from foundry_data.top_up import WithoutTexts
from foundry_data.transform_runner import ManipulatedDocuments, run_manipulation
from foundry_data.transforms import StepSpec, manipulation_fingerprint, steps_draw

logger = logging.getLogger(__name__)

TEXT_FILE = "documents.jsonl"
CHECKSUM_FILE = "documents.sha256"  # as `sha256sum --check` reads it
RECEIPTS = "receipts"
BLOCK_BYTES = 2**20


class Ablation(NamedTuple):
    """The steps of `dataset_manipulation` and what they need."""

    steps: Sequence[StepSpec]
    seed: int
    num_workers: int
    base_dir: Path
    replacement: Corpus | None
    held_out: Split | None
    digests: DigestCache


class Ablated(NamedTuple):
    """Training documents as they go on, and the receipts of what was done to them."""

    split: Split
    receipts: list[Path]


def ablate(split: Split, prepared: Path, ablation: Ablation, progress: Progress, *, force: bool = False) -> Ablated:
    """Run the steps over the training documents, unless that was done before.

    Raises:
        ConfigError: A step cannot be used.
        DataError: A step failed on a document, no document is left, or the text of an earlier time was changed.
        WorkerError: A worker process was killed.
        StorageError: The disk is full or cannot be written.
    """
    if not ablation.steps:
        return Ablated(split, [])
    replacement = ablation.replacement
    if replacement is None and not steps_draw(ablation.steps, base_dir=ablation.base_dir):
        # a seed that decides nothing is left out, so that runs of several seeds share the stage
        ablation = ablation._replace(seed=0)
    identity = fingerprint(
        {
            "documents": split.fingerprint,
            "steps": manipulation_fingerprint(ablation.steps, seed=ablation.seed, base_dir=ablation.base_dir),
            "replacement": None if replacement is None else _pool_fingerprint(replacement, ablation.held_out),
        }
    )
    folder = stage_folder(prepared, "text", identity)
    with building_lock(folder, waiting=lambda: progress("waiting", 0, None)):
        if force or not (folder / CHECKSUM_FILE).is_file():
            with storage_errors(folder):
                _write_text(split, folder, ablation, progress)
        else:
            _check_text(folder, ablation.digests)
    stream = DocumentStream(folder / TEXT_FILE, ReadSettings(), ())
    receipts = sorted((folder / RECEIPTS).rglob("*.json"))
    return Ablated(Split(Corpus(stream), identity), receipts)


def _write_text(split: Split, folder: Path, ablation: Ablation, progress: Progress) -> None:
    building = start_building(folder)
    held_out = ablation.held_out
    replacement = ablation.replacement
    if replacement is not None and held_out is not None:  # what is measured on must not come back as training text
        replacement = WithoutTexts(replacement, held_out.documents)
    documents = run_manipulation(
        _Reread(split),
        ablation.steps,
        seed=ablation.seed,
        num_workers=ablation.num_workers,
        receipts_dir=building / RECEIPTS,
        replacement=replacement,
        base_dir=ablation.base_dir,
    )
    written = fs.write_new(building / TEXT_FILE, _json_lines(documents, split.expected_bytes(), progress))
    fs.write_new(building / CHECKSUM_FILE, [_checksum_line(written.sha256)])
    publish(building, folder)
    if isinstance(replacement, WithoutTexts) and replacement.left_out:
        logger.info(
            "data.replacement_corpus: %s documents are held out for evaluation, so they were not drawn from",
            f"{replacement.left_out:,}",
        )


def _pool_fingerprint(replacement: Corpus, held_out: Split | None) -> str:
    return replacement.fingerprint if held_out is None else fingerprint([replacement.fingerprint, held_out.fingerprint])


def _check_text(folder: Path, digests: DigestCache) -> None:
    """Compare the text with its checksum; one that is known not to have changed is not read."""
    text = folder / TEXT_FILE
    found = digests.sha256([text]) if text.is_file() else []
    if [_checksum_line(digest) for digest in found] != [(folder / CHECKSUM_FILE).read_bytes()]:
        raise DataError(
            f"{text} is damaged: it differs from what was written; restore it, or run `foundry preprocess --force`"
        )


def _checksum_line(digest: str) -> bytes:
    return f"{digest}  {TEXT_FILE}\n".encode()


class _Reread:
    """The documents of a split, to be iterated over again and again."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __iter__(self) -> Iterator[Document]:
        return self._split.documents()


def _json_lines(documents: ManipulatedDocuments, expected: int | None, progress: Progress) -> Iterator[bytes]:
    buffer, written = bytearray(), 0
    for document in documents:
        buffer += msgspec.json.encode({"text": document.text, "source": document.source}) + b"\n"
        if len(buffer) >= BLOCK_BYTES:
            yield bytes(buffer)
            written += len(buffer)
            progress("ablating", written, expected)
            buffer.clear()
    if not (written or buffer):
        raise DataError(documents.why_empty())
    yield bytes(buffer)
