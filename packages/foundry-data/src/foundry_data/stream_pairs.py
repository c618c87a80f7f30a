"""Sample pairs from a function that takes all documents and gives all documents, in any number and order.

A document that comes out with the `source` it went in with is the same document. Plain texts have no source: they are
sampled on their own, as pairs without a `before`.
"""

import heapq

from foundry_data.documents import Document
from foundry_data.keyed_random import keyed_hash
from foundry_data.receipts import PAIRS, Pair, PairSample

REMEMBERED_CHARACTERS = 2**16


class StreamPairs:
    """Remembers the inputs with the lowest keyed hashes, and what came out for them."""

    def __init__(self, seed: int, size: int = PAIRS) -> None:
        self.seed = seed
        self.size = size
        self.has_texts_without_source = False
        self._heap: list[tuple[int, int, str]] = []  # (-priority, -order, source), the worst on top
        self._inputs: dict[str, str] = {}
        self._outputs: dict[str, str] = {}
        self._added = PairSample(size)
        self._order = 0

    def goes_in(self, document: Document) -> None:
        """Consider an input for the sample; of several with one source, only the first."""
        self._order += 1
        if document.source in self._inputs:
            return
        entry = (-keyed_hash(self.seed, "receipt", document.text), -self._order, document.source)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            dropped = heapq.heapreplace(self._heap, entry)[2]
            del self._inputs[dropped]
            self._outputs.pop(dropped, None)
        else:
            return
        self._inputs[document.source] = document.text[:REMEMBERED_CHARACTERS]

    def comes_out(self, document: Document, *, has_source: bool) -> None:
        """Note an output if its input is in the sample, or if it has none."""
        text = document.text[:REMEMBERED_CHARACTERS]
        if not has_source:
            self.has_texts_without_source = True
            self._added.offer(document.source, None, text, keyed_hash(self.seed, "receipt", text))
        elif document.source in self._inputs:
            self._outputs.setdefault(document.source, text)

    def result(self) -> tuple[Pair, ...]:
        """Return the pairs in the order of the inputs, then what has no source."""
        paired = PairSample(self.size)
        for _, _, source in sorted(self._heap, key=lambda entry: -entry[1]):
            paired.offer(source, self._inputs[source], self._outputs.get(source), 0)
        return paired.result() + self._added.result()
