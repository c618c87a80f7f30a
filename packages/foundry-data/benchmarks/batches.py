"""Batches per second as a trainer receives them, against other loaders, as ratios of one run.

    uv run --group peers python packages/foundry-data/benchmarks/batches.py --tokens 50000000

All read random tokens of the same number in rows of T. Peers that are not installed are left out.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from foundry_data import build_store_from_ids, epoch_order, packed_rows, train_tokenizer
from foundry_data.store import ChunkStore
from foundry_data.torch_loader import BatchStream, make_dataloader

LINES = ["the cat sat on a mat with forty dogs and seventeen hats while it rained"] * 9


def foundry(store: ChunkStore, batch: int, length: int) -> Iterator[object]:
    """`BatchStream`: shuffled, counted, prefetched, int64 tensors."""
    return BatchStream(packed_rows(store, length), global_batch=batch, seed=1)


def foundry_dataloader(store: ChunkStore, batch: int, length: int) -> Iterator[object]:
    """The standard `DataLoader` over the same rows."""
    while True:
        yield from make_dataloader(packed_rows(store, length), batch_size=batch, seed=1)


def bare_gather(store: ChunkStore, batch: int, length: int) -> Iterator[object]:
    """One indexed copy of permuted rows out of the mapped file and nothing else."""
    chunks = store.chunks(length)
    order = epoch_order(len(chunks), 1, 0)(np.arange(len(chunks)))
    while True:
        for start in range(0, len(order) - batch + 1, batch):
            yield chunks.gather(order[start : start + batch])


def nanogpt_way(store: ChunkStore, batch: int, length: int) -> Iterator[object]:
    """`get_batch`: rows at random places, one tensor each, stacked."""
    data = store.read(0, len(store))
    generator = np.random.default_rng(1)
    while True:
        places = generator.integers(0, len(data) - length, batch)
        yield torch.stack([torch.from_numpy(data[p : p + length].astype(np.int64)) for p in places])


def hugging_face_way(store: ChunkStore, batch: int, length: int) -> Iterator[object]:
    """`datasets` with torch format behind a `DataLoader`."""
    from datasets import Dataset

    rows = np.stack([np.asarray(chunk, dtype=np.int64) for chunk in islice(store.chunks(length), 20_000)])
    data = Dataset.from_dict({"input_ids": rows}).with_format("torch")
    while True:
        yield from torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True)


def litdata_way(store: ChunkStore, batch: int, length: int) -> Iterator[object]:
    """`litdata.StreamingDataset` over an optimized copy of the tokens."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
    from litdata.streaming.writer import BinaryWriter

    folder = Path(tempfile.mkdtemp())
    writer = BinaryWriter(str(folder), chunk_bytes="64MB", item_loader=TokensLoader(block_size=length))
    writer[0] = torch.from_numpy(np.asarray(store.read(0, len(store)), dtype=np.int64))
    writer.done()
    writer.merge()
    data = StreamingDataset(str(folder), item_loader=TokensLoader(block_size=length), shuffle=True)
    while True:
        yield from StreamingDataLoader(data, batch_size=batch)


WAYS: dict[str, Callable[[ChunkStore, int, int], Iterator[object]]] = {
    "BatchStream": foundry,
    "make_dataloader": foundry_dataloader,
    "bare gather": bare_gather,
    "nanoGPT's get_batch": nanogpt_way,
    "datasets, torch format": hugging_face_way,
    "litdata": litdata_way,
}


def batches_per_second(batches: Iterator[object], seconds: float) -> float:
    """Count batches for so long, after ten to warm up."""
    for _ in islice(batches, 10):
        pass
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in islice(batches, 20):
            count += 1
    return count / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()

    tokenizer = train_tokenizer(LINES, vocab_size=300, model_type="bpe")
    generator = np.random.default_rng(0)
    sequences = (generator.integers(4, 278, 1000) for _ in range(options.tokens // 1000))
    with tempfile.TemporaryDirectory() as folder:
        store = build_store_from_ids(sequences, tokenizer, Path(folder) / "store")
        speeds: dict[str, float] = {}
        for name, way in WAYS.items():
            try:
                speeds[name] = batches_per_second(way(store, options.batch, options.length), options.seconds)
            except (ImportError, TypeError, AttributeError) as error:  # missing, or another version of the peer
                print(f"{name}: left out ({error})")
    print(f"batches of {options.batch} x {options.length}")
    for name, speed in speeds.items():
        print(f"{name:24} {speed:12,.0f} per second   BatchStream is {speeds['BatchStream'] / speed:8.2f} times that")


if __name__ == "__main__":
    main()
