"""Give an ablated corpus back the words it lost, with documents drawn from a replacement pool.

    before the ablation    1,000,000 words      target
    after it                 940,000 words
    drawn from the pool       60,012 words      the closest that whole documents come to the target

A comparison of corpora says something about the ablation only if they have one size. Each document of the pool is drawn
with the same chance, by the keyed hash of its text; texts that the corpus has already are not drawn, nor one twice. The
pool should have gone through the same steps as the corpus, which `run_manipulation` sees to; and texts that are held
out should not be in it, which `WithoutTexts` sees to.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from foundry_config.errors import DataError
from foundry_data.documents import Document
from foundry_data.keyed_random import keyed_hash
from foundry_data.receipts import FORMAT, Pair, PairSample, StreamCount, TextCounts, write_receipt
from foundry_data.words import count_words


class TopUpReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a top-up."""

    format: str = FORMAT
    name: str
    seed: int
    target_words: int
    before: TextCounts
    after: TextCounts
    added_documents: int
    added_words: int
    pool_documents: int
    pool_words: int
    """Documents and words that could be drawn: neither in the corpus already nor twice in the pool."""
    pool_duplicates: int
    pairs: tuple[Pair, ...]
    """Some of the documents that were added."""


class _Pool(NamedTuple):
    keys: "array[int]"
    words: "array[int]"
    duplicates: int


def top_up(
    documents: Iterable[Document],
    pool: Iterable[Document],
    target_words: int | Callable[[], int],
    *,
    seed: int,
    receipts_dir: Path | None = None,
    name: str = "top-up",
) -> Iterator[Document]:
    """Yield `documents`, then documents of `pool`, in the order of the pool, up to `target_words` words.

    Args:
        documents: The ablated corpus.
        pool: Read twice, so not a generator. Not read at all if the corpus has enough words.
        target_words: Words wanted, or a function asked for them once `documents` is exhausted.
        seed: Decides which documents are drawn.
        receipts_dir: Folder for the receipt; none is written if not given.
        name: Of the receipt's file.

    Raises:
        DataError: The pool has too few words, or changed between the two readings.
    """
    present: set[int] = set()
    count = StreamCount()
    for document in documents:
        present.add(_key(document, seed))
        count.add(document.text, count_words(document.text))
        yield document
    target = target_words if isinstance(target_words, int) else target_words()
    before = count.result()
    found = _survey(pool, present, seed) if before.words < target else _Pool(array("Q"), array("Q"), 0)
    drawn = _draw(found, target - before.words)
    sample = PairSample()
    for document in _chosen(pool, drawn, seed):
        count.add(document.text, count_words(document.text))
        sample.offer(document.source, None, document.text, _key(document, seed))
        yield document
    after = count.result()
    receipt = TopUpReceipt(
        name=name,
        seed=seed,
        target_words=target,
        before=before,
        after=after,
        added_documents=after.documents - before.documents,
        added_words=after.words - before.words,
        pool_documents=len(found.keys),
        pool_words=sum(found.words),
        pool_duplicates=found.duplicates,
        pairs=sample.result(),
    )
    if receipts_dir is not None:
        write_receipt(receipts_dir, receipt, name=name)


class WithoutTexts:
    """A corpus without the documents whose text another one has, to be iterated over again and again."""

    def __init__(self, documents: Iterable[Document], others: Callable[[], Iterable[Document]]) -> None:
        """
        Args:
            documents: Read for each iteration, so not a generator.
            others: Gives the documents whose texts are left out; asked once.
        """
        self.documents = documents
        self.left_out = 0
        """Documents that the latest iteration left out."""
        self._others = others
        self._keys: set[int] | None = None

    def __iter__(self) -> Iterator[Document]:
        if self._keys is None:
            self._keys = {_key(document, 0) for document in self._others()}
        self.left_out = 0
        for document in self.documents:
            if _key(document, 0) in self._keys:
                self.left_out += 1
            else:
                yield document


def _survey(pool: Iterable[Document], present: set[int], seed: int) -> _Pool:
    """Note the key and the words of every document that may be drawn."""
    keys, words, duplicates = array("Q"), array("Q"), 0
    for document in pool:
        key = _key(document, seed)
        if key in present:
            duplicates += 1
            continue
        present.add(key)
        keys.append(key)
        words.append(count_words(document.text))
    return _Pool(keys, words, duplicates)


def _draw(pool: _Pool, missing_words: int) -> set[int]:
    """Return the keys of the documents to add: the lowest ones, stopping as close to the target as they come.

    Raises:
        DataError: All of them together are not enough.
    """
    if missing_words <= 0:
        return set()
    keys, words = np.array(pool.keys, dtype=np.uint64), np.array(pool.words, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    totals = np.cumsum(words[order])
    if len(totals) == 0 or totals[-1] < missing_words:
        available = int(totals[-1]) if len(totals) else 0
        raise DataError(
            f"data.replacement_corpus has {available:,} words that neither the corpus nor the held-out split has, but "
            f"{missing_words:,} are missing; name a larger replacement corpus"
        )
    last = int(np.searchsorted(totals, missing_words))
    short_by = missing_words - (int(totals[last - 1]) if last else 0)
    over_by = int(totals[last]) - missing_words
    count = last + 1 if over_by <= short_by else last
    return {int(key) for key in keys[order[:count]]}


def _chosen(pool: Iterable[Document], drawn: set[int], seed: int) -> Iterator[Document]:
    """Yield the drawn documents, each once.

    Raises:
        DataError: Some of them are no longer there.
    """
    remaining = set(drawn)
    for document in pool if remaining else ():
        key = _key(document, seed)
        if key in remaining:
            remaining.remove(key)
            yield document
    if remaining:
        raise DataError("data.replacement_corpus gave other documents on the second reading; leave it unchanged")


def _key(document: Document, seed: int) -> int:
    return keyed_hash(seed, "top-up", document.text)
