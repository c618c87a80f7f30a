"""Batches as PyTorch tensors: an endless, seekable stream for our own loop, and a standard `DataLoader` for any other.

    stream = BatchStream(rows, global_batch=32, seed=42)
    batch = next(stream)            # GlobalBatch(input_ids [32, T], labels [32, T], ...)
    stream.state                    # (0, 32): give it to another BatchStream and that one goes on with the next batch
    stream.close()

A thread makes batches in advance. It gathers a whole block of them with one indexed copy out of the mapped file, so
that the cost per batch is little more than the copy itself. Where it can, a block stays in the 16 bits of the file:
each batch is widened when it is asked for, by the core that will use it, and is in that core's cache then.

This is the only module of foundry_data that needs PyTorch (extra `torch`).
"""

import contextlib
import dataclasses
import itertools
import operator
import queue
import random
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from foundry_data.batches import BatchPlace, BatchPlan, rank_slice
from foundry_data.order import Indices
from foundry_data.packing import Rows
from foundry_data.store import Tokens
from foundry_data.word_budget import WordCounter

BLOCK_TOKENS = 2**19  # small batches are made several at a time, up to four megabytes of ids
BLOCK_BATCHES = 32  # and no more than this many, so that the first one does not wait for the others
MEMORIES = 3  # of blocks: one is used up by the caller, one waits, one is made
POLL_SECONDS = 0.2

_Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


@dataclasses.dataclass(frozen=True, slots=True)
class GlobalBatch:
    """One rank's share of a global batch, and what is known of the whole.

    The tensors may share memory with each other: do not write into them.
    """

    input_ids: torch.Tensor
    """[n, T] token ids of this rank's sequences, int64; n differs by one at most between ranks and can be 0."""
    labels: torch.Tensor
    """[n, T] as Hugging Face models take them: not shifted, -100 where nothing is predicted."""
    position_ids: torch.Tensor | None
    """[n, T], only with `document_mask`."""
    attention_mask: torch.Tensor | None
    """Always None: padding stands at the end of a row, where a causal model cannot see it."""
    target_tokens: int
    """Predicted tokens of the whole global batch: labels from the second column on that are not -100."""
    sequences: int
    """Sequences of the whole global batch."""
    tokens: int
    """Tokens of the whole global batch, padding not counted."""
    words: int
    """Words that begin in the whole global batch."""
    sequence_ids: npt.NDArray[np.int64]
    """[n] rows of this rank's sequences."""
    epoch: int
    position: int
    """Sequences of this epoch before the batch."""


class BatchStream(Iterator[GlobalBatch]):
    """Endless batches over a packed store, from any place on."""

    def __init__(
        self,
        rows: Rows,
        *,
        global_batch: int,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        position: int = 0,
        prefetch: int = 4,
        pin_memory: bool = False,
    ) -> None:
        """Open the stream before the batch at (epoch, position).

        Args:
            rows: The packed store.
            global_batch: Sequences per batch over all ranks.
            seed: Key of the order of every epoch.
            shuffle: Visit rows in the keyed order; else as they lie.
            drop_last: Leave out the short last batch of an epoch.
            rank, world_size: Which contiguous share of every batch to deliver.
            epoch, position: `state` of the stream to continue.
            prefetch: Batches made in advance by a thread; 0 makes each when it is asked for.
            pin_memory: Put tensors into page-locked memory, for copies to a GPU.

        Raises:
            DataError: There is not one batch in an epoch.
            ValueError: No such position or rank.
        """
        self.plan = BatchPlan(len(rows), global_batch=global_batch, seed=seed, shuffle=shuffle, drop_last=drop_last)
        rank_slice(global_batch, rank, world_size)  # refuses a rank that does not exist
        self._rows = rows
        self._share = (rank, world_size)
        self._pin_memory = pin_memory
        self._first = self.plan.place(epoch, position)
        self._last: GlobalBatch | None = None
        self._memory: list[Tokens] = []  # of the blocks that are being used, in turn
        self._words = WordCounter(rows, self.plan)
        small = min(BLOCK_BATCHES, BLOCK_TOKENS // (global_batch * rows.length))
        per_block = max(prefetch, small) if prefetch else 1
        self._blocks = _Blocks(self, self._first, per_block)
        self._ready: Iterator[GlobalBatch] = iter(())
        card = torch.cuda.current_device() if pin_memory and prefetch else None
        self._prefetcher = _Prefetcher(self._blocks, card=card) if prefetch else None
        self._closed = False

    def __next__(self) -> GlobalBatch:
        """Return the next batch.

        Raises:
            DataError, OSError: What went wrong in the thread that reads.
            StopIteration: The stream is closed.
        """
        if self._closed:
            raise StopIteration
        ready = next(self._ready, None)
        if ready is None:
            self._ready = iter(next(self._prefetcher or self._blocks))
            ready = next(self._ready)
        self._last = ready
        return ready

    @property
    def state(self) -> tuple[int, int]:
        """(epoch, position) of the batch that is delivered next."""
        last = self._last
        place = self._first if last is None else self.plan.place(last.epoch, last.position + last.sequences)
        return place.epoch, place.position

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.plan.steps_per_epoch

    def words_after(self, sequences: int) -> int:
        """Return the words in the first `sequences` sequences since the start of training, over all epochs."""
        return self._words.words_after(sequences)

    def close(self) -> None:
        """End the thread; the stream delivers nothing more."""
        self._closed = True
        if self._prefetcher is not None:
            self._prefetcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def make_block(self, places: list[BatchPlace]) -> "Block":
        """Read several batches with one gather."""
        everything = self._rows_of(places)
        ends = list(itertools.accumulate(place.size for place in places))
        starts = [0, *ends[:-1]]
        totals = [
            np.add.reduceat(counts, starts).tolist()
            for counts in (self._rows.targets(everything), self._rows.tokens(everything), self._rows.words(everything))
        ]
        shares = [everything[start:end] for start, end in zip(starts, ends, strict=True)]
        mine = everything
        if self._share[1] > 1:
            shares = [share[rank_slice(len(share), *self._share)] for share in shares]
            mine = np.concatenate(shares)
        if self._rows.plain and not self._pin_memory:
            return Block(places, shares, totals, self._as_stored(mine))
        return Block(places, shares, totals, self._tensors(mine, [len(share) for share in shares]))

    def _rows_of(self, places: Sequence[BatchPlace]) -> Indices:
        """Rows of consecutive batches, one after the other: a piece of the order for each epoch."""
        pieces: list[Indices] = []
        for epoch, group in itertools.groupby(places, key=operator.attrgetter("epoch")):
            run = list(group)
            pieces.append(self.plan.rows_between(epoch, run[0].position, run[-1].position + run[-1].size))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _as_stored(self, rows: Indices) -> Tokens:
        """Copy rows, as narrow as the file, into memory that is used again for the next block but two. [B, T]"""
        store, length = self._rows.store, self._rows.length
        memory = self._memory.pop(0) if len(self._memory) == MEMORIES else None
        if memory is None or len(memory) < len(rows):
            memory = np.empty((len(rows), length), dtype=store.dtype)
        self._memory.append(memory)
        return store.gather(rows * length, length, out=memory[: len(rows)])

    def _tensors(self, rows: Indices, sizes: list[int]) -> list[_Tensors]:
        """Return token ids, labels and positions of consecutive batches, as views of what is gathered for all."""

        def views(values: npt.NDArray[np.int64]) -> Sequence[torch.Tensor]:
            made = as_tensor(values)
            made = made.pin_memory() if self._pin_memory else made
            return made.split(sizes)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

        batch = self._rows.gather(rows)
        input_ids = views(batch.input_ids)
        labels = input_ids if batch.labels is batch.input_ids else views(batch.labels)
        positions = [None] * len(sizes) if batch.position_ids is None else views(batch.position_ids)
        return list(zip(input_ids, labels, positions, strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """Consecutive batches that were read together; iterating finishes one after the other."""

    places: list[BatchPlace]
    shares: list[Indices]
    """Rows of this rank in each batch."""
    totals: list[list[int]]
    """Targets, tokens and words of each batch, over all ranks."""
    contents: Tokens | list[_Tensors]
    """The rows of all batches, one after the other, in memory that is used again for the next block but two; or token
    ids, labels and positions of each batch."""

    def __iter__(self) -> Iterator[GlobalBatch]:
        stop = 0
        columns = zip(self.places, self.shares, *self.totals, strict=True)
        for number, (place, share, targets, tokens, words) in enumerate(columns):
            if isinstance(self.contents, list):
                input_ids, labels, position_ids = self.contents[number]
            else:
                start, stop = stop, stop + len(share)
                input_ids = labels = as_tensor(self.contents[start:stop].astype(np.int64))
                position_ids = None
            yield GlobalBatch(
                input_ids=input_ids,
                labels=labels,
                position_ids=position_ids,
                attention_mask=None,
                target_tokens=targets,
                sequences=place.size,
                tokens=tokens,
                words=words,
                sequence_ids=share,
                epoch=place.epoch,
                position=place.position,
            )


class _Blocks(Iterator[Block]):
    """Makes blocks of consecutive batches, one at each call."""

    def __init__(self, stream: BatchStream, place: BatchPlace, per_block: int) -> None:
        self._make = stream.make_block
        self._plan = stream.plan
        self._place = place
        self._per_block = per_block

    def __next__(self) -> Block:
        places = [self._place]
        for _ in range(self._per_block):
            places.append(self._plan.after(places[-1]))
        block = self._make(places[:-1])
        self._place = places[-1]
        return block


class _Prefetcher(Iterator[Block]):
    """Runs an iterator in a thread, one item ahead of the one that is being made."""

    def __init__(self, source: Iterator[Block], *, card: int | None = None) -> None:
        """
        Args:
            source: Gives the items.
            card: CUDA device of the thread that makes this; memory that is pinned for another would take some of its.
        """
        self._source = source
        self._card = card
        self._queue: queue.Queue[Block | BaseException] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="prefetch-batches", daemon=True)
        self._thread.start()

    def __next__(self) -> Block:
        if self._failure is not None:
            raise self._failure
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._failure = item
            raise item
        return item

    def _work(self) -> None:
        if self._card is not None:
            torch.cuda.set_device(self._card)  # a new thread begins with card 0
        while not self._stop.is_set():
            try:
                item: Block | BaseException = next(self._source)
            except BaseException as error:  # handed to the thread that asks for the batch
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=POLL_SECONDS)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()
            self._thread.join(timeout=POLL_SECONDS / 20)


Loader = DataLoader[dict[str, torch.Tensor]]


class RowDataset(Dataset[dict[str, torch.Tensor]]):
    """A packed store as a map-style dataset of single sequences."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sequence {index} among {len(self)}")
        row = self._rows.gather(np.array([index], dtype=np.int64))
        sample = {"input_ids": as_tensor(row.input_ids[0]), "labels": as_tensor(row.labels[0])}
        if row.position_ids is not None:
            sample["position_ids"] = as_tensor(row.position_ids[0])
        return sample


def as_tensor(values: npt.NDArray[np.int64]) -> torch.Tensor:
    """Return a tensor over the memory of an array."""
    return torch.from_numpy(values)  # pyright: ignore[reportUnknownMemberType]


def make_dataloader(
    rows: Rows,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    drop_last: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Loader:
    """Return a standard `DataLoader` over a packed store; batches are dicts of [B, T] tensors.

    Its order comes from a generator of its own, so that the global state of PyTorch is left alone; two loaders made
    with the same seed give the same batches, for any number of workers. For exact resuming use `BatchStream`.
    """
    return DataLoader(
        RowDataset(rows),
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=seed_worker,
        generator=torch.Generator().manual_seed(seed),
    )


def seed_worker(worker_id: int) -> None:
    """Seed python and numpy in a `DataLoader` worker, each worker differently; for its `worker_init_fn`."""
    seed = (torch.initial_seed() + (0 if torch.utils.data.get_worker_info() else worker_id)) % 2**32
    random.seed(seed)
    np.random.seed(seed)
