"""Text to finished, hashed token store: this package against other ways, as ratios of one run.

    uv run --group peers python packages/foundry-data/benchmarks/text_to_store.py corpus.txt --threads 2

Each way reads the same documents (blank-line paragraphs) and uses the same SentencePiece model. Peers that are not
installed are left out. The fastest of `--repeats` runs counts; ratios travel between machines, MB/s do not.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from foundry_data import build_store, train_tokenizer
from foundry_data.sentencepiece_tokenizer import SentencePieceTokenizer

CHUNK = 512


def foundry(documents: list[str], tokenizer: SentencePieceTokenizer, folder: Path, threads: int) -> None:
    """This package: tokens, words of every token, document borders, hashes, durable files."""
    build_store(documents, tokenizer, folder / "store", num_threads=threads)


def bare_sentencepiece(documents: list[str], tokenizer: SentencePieceTokenizer, folder: Path, threads: int) -> None:
    """SentencePiece's own batch encoding; nothing is written."""
    tokenizer._processor.encode(documents, return_type="numpy", num_threads=threads)


def nanogpt_way(documents: list[str], tokenizer: SentencePieceTokenizer, folder: Path, threads: int) -> None:
    """Encode in batches, append EOS, write one memory-mapped file; no hashes, no counts."""
    ids = tokenizer._processor.encode(documents, return_type="numpy", num_threads=threads)
    total = sum(len(part) + 1 for part in ids)
    target = np.memmap(folder / "train.bin", dtype=np.uint16, mode="w+", shape=(total,))
    place = 0
    for part in ids:
        target[place : place + len(part)] = part
        target[place + len(part)] = tokenizer.eos_id
        place += len(part) + 1
    target.flush()


def run_clm_way(documents: list[str], tokenizer: SentencePieceTokenizer, folder: Path, threads: int) -> None:
    """`datasets.map` twice: tokenize by the same vocabulary as a fast tokenizer, then group, as run_clm does."""
    from datasets import Dataset

    fast = fast_tokenizer(tokenizer)

    def encode(batch: dict) -> dict:
        return {"input_ids": fast(batch["text"])["input_ids"]}

    def group(batch: dict) -> dict:
        joined = [token for ids in batch["input_ids"] for token in ids]
        return {"input_ids": [joined[i : i + CHUNK] for i in range(0, len(joined) // CHUNK * CHUNK, CHUNK)]}

    data = Dataset.from_dict({"text": documents})
    workers = threads if threads > 1 else None
    data = data.map(encode, batched=True, remove_columns=["text"], num_proc=workers)
    data.map(group, batched=True, num_proc=workers).save_to_disk(folder / "arrow")


@functools.cache
def fast_tokenizer(tokenizer: SentencePieceTokenizer) -> Any:
    """The tokenizer as transformers loads it; made before the clock starts."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return AutoTokenizer.from_pretrained(folder)


WAYS: dict[str, Callable[[list[str], SentencePieceTokenizer, Path, int], None]] = {
    "foundry-data": foundry,
    "bare SentencePiece": bare_sentencepiece,
    "nanoGPT's way": nanogpt_way,
    "run_clm's way": run_clm_way,
}


def seconds(way: Callable[..., None], *arguments: object, repeats: int) -> float:
    """Return the time of the fastest run, each in a folder of its own."""
    best = float("inf")
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            way(*arguments[:2], Path(folder), arguments[2])
            best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--model-type", choices=["unigram", "bpe"], default="unigram")
    options = parser.parse_args()

    documents = [text for text in options.corpus.read_text().split("\n\n") if text.strip()]
    size = sum(len(text.encode()) for text in documents) / 1e6
    tokenizer = train_tokenizer(documents, vocab_size=options.vocab_size, model_type=options.model_type)
    speeds: dict[str, float] = {}
    for name, way in WAYS.items():
        try:
            if way is run_clm_way:
                fast_tokenizer(tokenizer)
            speeds[name] = size / seconds(way, documents, tokenizer, options.threads, repeats=options.repeats)
        except ImportError as error:
            print(f"{name}: left out ({error})")
    print(f"{size:.1f} MB, {options.model_type}, {options.threads} threads")
    for name, speed in speeds.items():
        print(f"{name:20} {speed:8.2f} MB/s   foundry-data is {speeds['foundry-data'] / speed:6.2f} times that")


if __name__ == "__main__":
    main()
