"""Steps that remove a document that was there before, exactly or nearly; of each group the first one stays.

    deduplicate                                           same text
    {name: deduplicate, ignore: case_and_space}           "A  cat" = "a cat"
    {name: deduplicate_minhash, similarity: 0.8}          at least 80 % of the word 5-grams in common, estimated

MinHash (Broder 1997): a random function h is drawn, and the smallest h of a document's word n-grams kept. Two documents
agree in it with a probability equal to their Jaccard similarity, so the share of agreements among `PERMUTATIONS` such
numbers estimates it, with a standard error of at most 0.045. Only documents that agree in a whole band of numbers
are compared. Memory: 16 bytes per document (exact) or 0.5 kB (MinHash), and Python's overhead; never the texts.
"""

import hashlib
import zlib
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from foundry_data.transform_kinds import SequentialFilter, StepContext, Transform

PERMUTATIONS = 128
NGRAMS_AT_ONCE = 4096  # bounds the table [ngrams, PERMUTATIONS] to 4 MiB
_FNV = np.uint64(0x100000001B3)

Numbers = npt.NDArray[np.uint64]


class Deduplicate(SequentialFilter):
    """Remove documents whose text was there before."""

    seedless: ClassVar[bool] = True

    ignore: Literal["nothing", "case", "case_and_space"] = "nothing"

    def measure(self, _context: StepContext, /) -> Callable[[str], bytes]:
        """Return a function to 16 bytes that are equal for equal texts."""
        normalize = _NORMALIZERS[self.ignore]
        return lambda text: hashlib.blake2b(normalize(text).encode(), digest_size=16).digest()

    def gate(self) -> Callable[[bytes], bool]:
        """Return a function that is True for a measure it has not met."""
        seen: set[bytes] = set()

        def is_new(measure: bytes) -> bool:
            before = len(seen)
            seen.add(measure)
            return len(seen) > before

        return is_new


class DeduplicateMinhash(SequentialFilter):
    """Remove documents that share most of their word n-grams with one that was kept before."""

    similarity: Annotated[float, Meta(gt=0, le=1)] = 0.8
    ngram: Annotated[int, Meta(ge=1, le=100)] = 5

    def measure(self, context: StepContext, /) -> Callable[[str], bytes]:
        """Return a function to the `PERMUTATIONS` smallest hashes, 4 bytes each."""
        multipliers, offsets = _hash_functions(context.seed)

        def signature(text: str) -> bytes:
            ngrams = hash_ngrams(text, self.ngram)
            smallest = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
            for start in range(0, len(ngrams), NGRAMS_AT_ONCE):
                table = ngrams[start : start + NGRAMS_AT_ONCE, None] * multipliers + offsets  # [ngrams, PERMUTATIONS]
                np.minimum(smallest, table.min(axis=0), out=smallest)
            return (smallest >> np.uint64(32)).astype("<u4").tobytes()

        return signature

    def gate(self) -> Callable[[bytes], bool]:
        """Return a function that is True for a signature unlike all that were kept."""
        width = 4 * rows_per_band(self.similarity)
        bands: list[dict[bytes, list[int]]] = [{} for _ in range(4 * PERMUTATIONS // width)]
        kept: list[bytes] = []

        def is_new(signature: bytes) -> bool:
            keys = [signature[start : start + width] for start in range(0, width * len(bands), width)]
            similar = {index for band, key in zip(bands, keys) for index in band.get(key, ())}
            if any(estimate_similarity(signature, kept[index]) >= self.similarity for index in similar):
                return False
            for band, key in zip(bands, keys):
                band.setdefault(key, []).append(len(kept))
            kept.append(signature)
            return True

        return is_new


def hash_ngrams(text: str, size: int) -> Numbers:
    """Return a hash for each run of `size` words, without regard to case; a shorter text is one n-gram. [ngrams]"""
    words = text.lower().split()
    size = min(size, max(len(words), 1))
    hashes = np.array([zlib.crc32(word.encode()) for word in words] or [0], dtype=np.uint64)
    count = len(hashes) - size + 1
    ngrams = np.zeros(count, dtype=np.uint64)
    for offset in range(size):  # arithmetic modulo 2**64
        ngrams = (ngrams ^ hashes[offset : offset + count]) * _FNV
        ngrams ^= ngrams >> np.uint64(29)
    return np.unique(ngrams)


def rows_per_band(similarity: float) -> int:
    """Return how many numbers make a band, so that documents of this similarity nearly always share one.

    With r numbers per band and b = PERMUTATIONS // r bands, documents of similarity s share a band with probability
    1 - (1 - s**r)**b (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4). The largest r that gives 98 %
    compares the fewest documents in vain.
    """
    sizes = range(PERMUTATIONS, 0, -1)
    return next((r for r in sizes if 1 - (1 - similarity**r) ** (PERMUTATIONS // r) >= 0.98), 1)


def estimate_similarity(one: bytes, other: bytes) -> float:
    """Return the share of equal numbers in two signatures: an estimate of the Jaccard similarity."""
    equal = np.frombuffer(one, "<u4") == np.frombuffer(other, "<u4")
    return int(np.count_nonzero(equal)) / PERMUTATIONS


def _hash_functions(seed: int) -> tuple[Numbers, Numbers]:
    """Return odd multipliers and offsets of the functions x -> (a x + b) mod 2**64. [PERMUTATIONS] each"""
    stream = hashlib.shake_128(f"minhash {seed}".encode()).digest(2 * 8 * PERMUTATIONS)
    numbers = np.frombuffer(stream, dtype="<u8").astype(np.uint64)
    return numbers[:PERMUTATIONS] | np.uint64(1), numbers[PERMUTATIONS:]


_NORMALIZERS: dict[str, Callable[[str], str]] = {
    "nothing": str,
    "case": str.casefold,
    "case_and_space": lambda text: " ".join(text.casefold().split()),
}

DUPLICATE_TRANSFORMS: dict[str, type[Transform]] = {
    "deduplicate": Deduplicate,
    "deduplicate_minhash": DeduplicateMinhash,
}
