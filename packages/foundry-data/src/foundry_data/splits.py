"""The two sides of a corpus, training and held out, each a stream that can be read again and named by its content.

    corpus --hash of each text--> training documents   fingerprint sha256:1f0c...
                              \\-> held-out documents   fingerprint sha256:77ab...

The side of a document depends on its text and the seed alone. A corpus of up to 64 MB is remembered after the first
pass, because tokenizer training and two token stores would otherwise read and parse it four times.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from foundry_data.digests import DigestCache
from foundry_data.documents import Document, ReadReport
from foundry_data.fingerprint import fingerprint
from foundry_data.keyed_random import split_by_hash
from foundry_data.readers import DocumentStream

VERSION = 2  # part of every fingerprint: raised when the same inputs would give other bytes
REMEMBERED_CHARACTERS = 2**26
PLAIN = (".txt", ".text", ".train", ".dev", ".test", ".jsonl", ".ndjson")


class Corpus:
    """A source of documents that is read as often as needed."""

    def __init__(self, stream: DocumentStream, cache: DigestCache | None = None) -> None:
        """Name the content of `stream`, whose files are hashed unless `cache` knows them."""
        self.stream = stream
        self.fingerprint = fingerprint(
            {
                "version": VERSION,
                "source": (cache or DigestCache(None)).fingerprint(stream.files),
                "reading": msgspec.to_builtins(stream.settings),
            }
        )
        self.report: ReadReport | None = None
        """Counts of the first complete pass."""
        self._remembered: list[Document] | None = None

    def __iter__(self) -> Iterator[Document]:
        if self._remembered is not None:
            yield from self._remembered
            return
        kept: list[Document] | None = []
        characters = 0
        for block in self.stream.blocks():
            for document in block.documents():
                characters += len(document.text)
                if kept is not None:
                    kept.append(document)
                yield document
            if characters > REMEMBERED_CHARACTERS:
                kept = None
        self._remembered = kept
        self.report = self.stream.report

    def expected_bytes(self) -> int | None:
        """Return about how much text there is, for progress; None where nobody knows before reading."""
        if self.report is not None:
            return self.report.bytes
        files = self.stream.files
        known = all(file.suffix in PLAIN and not file.compression for file in files)
        return sum(file.size for file in files) if known else None


class Split(NamedTuple):
    """One side of a corpus."""

    corpus: Corpus
    fingerprint: str
    fraction: float = 0.0
    """Share of the documents that is held out."""
    seed: int = 0
    held_out: bool = False
    """Whether this side is that share."""

    def documents(self) -> Iterator[Document]:
        """Yield the documents of this side, in the order of the corpus."""
        if not self.fraction:
            return iter(self.corpus)
        return (d for d in self.corpus if split_by_hash(d.text, self.fraction, self.seed) == self.held_out)

    def expected_bytes(self) -> int | None:
        """Return about how much text there is, None if nobody knows."""
        total = self.corpus.expected_bytes()
        share = self.fraction if self.held_out else 1 - self.fraction
        return None if total is None else round(total * share)


def split_corpus(corpus: Corpus, *, fraction: float, seed: int) -> tuple[Split, Split | None]:
    """Return the training documents and those held out, None if nothing is."""
    if not fraction:
        return Split(corpus, corpus.fingerprint), None
    train, test = (
        Split(corpus, fingerprint([corpus.fingerprint, "held out", fraction, seed, side]), fraction, seed, side)
        for side in (False, True)
    )
    return train, test


def stage_folder(prepared: Path, name: str, identity: str) -> Path:
    """Return the folder of a stage, named by the first twelve digits of what it is made from."""
    return prepared / f"{name}-{identity.removeprefix('sha256:')[:12]}"
