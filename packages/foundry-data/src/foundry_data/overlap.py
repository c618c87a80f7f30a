"""Held-out documents that are in the training corpus too, word for word.

    train.txt   a b c      held.txt   b x     ->  Overlap(documents=2, words=2, shared_documents=1, shared_words=1)

A held-out loss says little where the text was trained on. Two sides of one corpus cannot share a text (`splits`), but a
corpus of its own for the held-out split can. Texts are compared before any step of `dataset_manipulation`, which would
hide the likeness and not undo it.
"""

import logging
from pathlib import Path

import msgspec

from foundry_data import fs
from foundry_data.fingerprint import fingerprint
from foundry_data.keyed_random import keyed_hash
from foundry_data.progress import Progress
from foundry_data.splits import Split, stage_folder
from foundry_data.stages import storage_errors
from foundry_data.words import count_words

VERSION = 1
WORTH_A_WARNING = 0.01  # of the held-out words; short lines ("Yes.") recur in any two corpora

logger = logging.getLogger(__name__)


class Overlap(msgspec.Struct, frozen=True):
    """What a held-out split shares with the training corpus."""

    documents: int
    """Held-out documents."""
    words: int
    shared_documents: int
    """Those whose whole text is a training document, too."""
    shared_words: int

    @property
    def share(self) -> float:
        """Share of the held-out words, from 0 to 1."""
        return self.shared_words / self.words if self.words else 0.0


def overlap_of(train: Split, test: Split) -> Overlap:
    """Compare all documents of both sides; holds a hash and two counts of each held-out text."""
    held_out: dict[int, tuple[int, int]] = {}  # hash of a text -> its documents and words
    documents = words = 0
    for document in test.documents():
        key, size = _key(document.text), count_words(document.text)
        copies, known = held_out.get(key, (0, 0))
        held_out[key] = (copies + 1, known + size)
        documents, words = documents + 1, words + size
    shared = [held_out.pop(key) for document in train.documents() if (key := _key(document.text)) in held_out]
    return Overlap(documents, words, sum(copies for copies, _ in shared), sum(size for _, size in shared))


def kept_overlap(train: Split, test: Split, prepared: Path, progress: Progress) -> Overlap:
    """Return the overlap from `prepared`, where it is kept, or find it; and warn of one that matters.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    identity = fingerprint(["overlap", VERSION, train.fingerprint, test.fingerprint])
    path = stage_folder(prepared, "overlap", identity).with_suffix(".json")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Overlap)
    except (FileNotFoundError, msgspec.DecodeError):  # not made yet, or damaged: made anew
        progress("comparing", 0, None)
        found = overlap_of(train, test)
        with storage_errors(path):
            fs.make_directories(prepared)
            fs.write_atomic(path, msgspec.json.encode(found))
    if found.shared_documents:
        logger.log(
            logging.WARNING if found.share >= WORTH_A_WARNING else logging.INFO,
            "data.test_corpus: %s of its %s documents (%.2g %% of the words) are in the training corpus word for word, "
            "so the held-out loss tells less of new text; leave them out of one of the two",
            *(f"{found.shared_documents:,}", f"{found.documents:,}", 100 * found.share),
        )
    return found


def _key(text: str) -> int:
    return keyed_hash(0, "overlap", text)
