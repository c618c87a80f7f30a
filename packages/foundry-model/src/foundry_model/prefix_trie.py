"""Lay texts into rows for the model, so that what several of them begin with is read once.

    <s> the cat sleeps        row of 7    tokens   <s> the cat sleeps | sleep | dogs bark
    <s> the cat sleep                     depth      0   1   2    3       3       2    3
    <s> the dogs bark                     sees     its own ancestors only

Sorted texts lie beside those that they share most with, so one pass makes the tries: of each text only what differs
from the text before it is added to the row. Minimal pairs need 40 % fewer tokens this way, and no padding. Models
that cannot read tries get every text as a row of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


class Span(NamedTuple):
    """A stretch of tokens of which the last ones are scored, each given all tokens before it."""

    tokens: tuple[int, ...]
    first: int = 1
    """Index of the first scored token, at least 1."""


class Query(NamedTuple):
    """One span inside a row."""

    span: int
    """Its place in the list of spans."""
    path: Index
    """Nodes of the row at which its tokens stand."""


class Row:
    """A trie of tokens, written node by node: parents stand before their children."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.queries: list[Query] = []
        self._branches: list[tuple[int, int, Index]] = []  # first new node, one past the last, their common ancestors

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether the row is a single text, for which the causal mask is enough."""
        return len(self._branches) == 1

    def add(self, number: int, tokens: Sequence[int], ancestors: Index) -> Index:
        """Hang the end of a text below the nodes of its beginning; returns the nodes of the whole text."""
        start, shared = len(self.tokens), len(ancestors)
        new = tokens[shared:]
        path = np.concatenate([ancestors, np.arange(start, start + len(new))])
        if new:
            self.tokens.extend(new)
            self.depths.extend(range(shared, len(tokens)))
            self._branches.append((start, len(self.tokens), ancestors))
        self.queries.append(Query(number, path))
        return path

    def fill_mask(self, mask: npt.NDArray[np.bool_]) -> None:
        """Set mask[t, s] where node t may look at node s. [T, T], all False before"""
        for start, end, ancestors in self._branches:
            mask[start:end, ancestors] = True
            mask[start:end, start:end] = np.tri(end - start, dtype=bool)


def pack_tries(spans: Sequence[Span], *, row_tokens: int, whole: bool = False) -> Iterator[Row]:
    """Yield rows of at most `row_tokens` nodes that share beginnings.

    Args:
        spans: None of them longer than a row.
        row_tokens: Most nodes of a row.
        whole: Read the last token of every span too, for what comes after it; else it is only a target.
    """
    row, before, path = Row(), (), np.zeros(0, dtype=np.int64)
    for number in sorted(range(len(spans)), key=lambda number: spans[number].tokens):
        tokens = _read_tokens(spans[number], whole)
        shared = _common_prefix(before, tokens)
        if len(row) + len(tokens) - shared > row_tokens:
            yield row
            row, shared = Row(), 0
        path = row.add(number, tokens, path[:shared])
        before = tokens
    if row.queries:
        yield row


def pack_chains(spans: Iterable[Span], *, whole: bool = False) -> Iterator[Row]:
    """Yield one row for every different text; equal ones share it."""
    rows: dict[tuple[int, ...], Row] = {}
    for number, span in enumerate(spans):
        tokens = _read_tokens(span, whole)
        row = rows.get(tokens)
        if row is None:
            row = rows[tokens] = Row()
            row.add(number, tokens, np.zeros(0, dtype=np.int64))
        else:
            row.queries.append(Query(number, row.queries[0].path))
    yield from rows.values()


def batches(rows: Iterable[Row], *, batch_tokens: int) -> Iterator[list[Row]]:
    """Group rows of similar length so that a padded batch has at most `batch_tokens` (or is one row), longest first.

    The longest come first so that a memory that is too small is known at the start.
    """
    batch: list[Row] = []
    for row in sorted(rows, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _read_tokens(span: Span, whole: bool) -> tuple[int, ...]:
    return span.tokens if whole else span.tokens[:-1]


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of tokens that both begin with."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
