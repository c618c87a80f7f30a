"""What a step leaves behind so that a reviewer can check it: counts, hashes, settings, and pairs to read.

    00-lowercase.json
      before   4,231 documents, 310,222 words, sha256 of the stream
      after    4,231 documents, 310,222 words, sha256 of the stream      = `before` of the next step
      pairs    50 documents before and after, chosen by the seed, changed ones first

The hash of a stream is SHA-256 over each text in order: its length in bytes (8 bytes, little-endian), then its UTF-8.
Everything in a receipt but `seconds` is the same whenever the same documents go through the same steps.
"""

import hashlib
import heapq
from pathlib import Path
from typing import Any

import msgspec

from foundry_data import fs

FORMAT = "foundry-receipt/1"
PAIRS = 50
EXCERPT_CHARACTERS = 1000
CONTEXT_CHARACTERS = 200  # shown before the first difference


class TextCounts(msgspec.Struct, frozen=True):
    """A stream of documents in numbers."""

    documents: int
    words: int
    characters: int
    sha256: str


class Pair(msgspec.Struct, frozen=True):
    """One document before and after; a long one is an excerpt around the first difference."""

    source: str
    before: str | None
    """Nothing: the document was added."""
    after: str | None
    """Nothing: the document was removed."""
    excerpt: bool = False


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one step."""

    format: str = FORMAT
    step: int
    name: str
    settings: dict[str, Any]
    code: str
    """Fingerprint of the code or program that did the work."""
    seed: int
    before: TextCounts
    after: TextCounts
    changed_documents: int | None = None
    """Not known where a function rewrites the whole stream."""
    removed_documents: int | None = None
    notes: dict[str, Any] = {}
    """What only this kind of step can tell."""
    seconds: float
    """Time spent in the step itself, summed over the workers."""
    pairs: tuple[Pair, ...]


class StreamCount:
    """Counts and hashes the documents that pass a point between two steps."""

    def __init__(self) -> None:
        self.documents = self.words = self.characters = 0
        self._hash = hashlib.sha256()

    def add(self, text: str, words: int) -> None:
        """Count one document."""
        data = text.encode()
        self._hash.update(len(data).to_bytes(8, "little"))
        self._hash.update(data)
        self.documents += 1
        self.words += words
        self.characters += len(text)

    def result(self) -> TextCounts:
        """Return the counts so far."""
        return TextCounts(self.documents, self.words, self.characters, self._hash.hexdigest())


class PairSample:
    """Keeps the pairs with the lowest priorities, changed documents first; memory for `PAIRS` excerpts only."""

    def __init__(self, size: int = PAIRS) -> None:
        self.size = size
        self._heap: list[tuple[bool, int, int, Pair]] = []  # the worst pair on top
        self._offered = 0

    def offer(self, source: str, before: str | None, after: str | None, priority: int) -> None:
        """Take the pair if it belongs to the sample so far; equal priorities count in order of arrival."""
        rank = (before != after, -priority, -self._offered)
        self._offered += 1
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, (*rank, _pair(source, before, after)))
        elif rank > self._heap[0][:3]:
            heapq.heapreplace(self._heap, (*rank, _pair(source, before, after)))

    def result(self) -> tuple[Pair, ...]:
        """Return the pairs in the order of the corpus."""
        return tuple(entry[3] for entry in sorted(self._heap, key=lambda entry: -entry[2]))


def write_receipt(folder: Path, receipt: Any, *, name: str) -> Path:
    """Write a receipt as readable JSON; an older one of the same name is replaced.

    Raises:
        OSError: Any error of the disk.
    """
    fs.make_directories(folder)
    path = folder / f"{name}.json"
    fs.write_atomic(path, msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n")
    return path


def read_receipt(path: Path) -> Receipt:
    """Read a receipt back."""
    return msgspec.json.decode(path.read_bytes(), type=Receipt)


def _pair(source: str, before: str | None, after: str | None) -> Pair:
    start = _first_difference(before, after) if before is not None and after is not None else 0
    start = max(0, start - CONTEXT_CHARACTERS)
    stop = start + EXCERPT_CHARACTERS
    lengths = [len(text) for text in (before, after) if text is not None]
    excerpt = start > 0 or max(lengths) > stop
    return Pair(source, before and before[start:stop], after and after[start:stop], excerpt)


def _first_difference(one: str, other: str) -> int:
    """Return the first index at which two texts differ, or 0 if they are equal; found by halving."""
    if one == other:
        return 0
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
