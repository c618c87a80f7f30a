"""Score minimal pairs with a 14M model, against minicons on the same threads, tokenizer and pairs.

    python packages/foundry-model/benchmarks/minimal_pairs_speed.py --pairs blimp/ --count 2000 --threads 2

minicons leaves batching to its caller: `sequence_score` takes a list of sentences. `pair` hands it one pair at a time
(a loop over a data set), `10` and `64` that many sentences. Both sides take turns, tokenization included, and are
also compared number by number. Times are extrapolated to the 67,000 pairs of BLiMP. Without `--pairs`, pairs are made
up; their shared beginnings are alike, but real ones are what counts.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from foundry_model.minimal_pairs import score_pairs
from foundry_model.pair_files import MinimalPair, PairFile, Side, find_pair_files, read_pair_file

BLIMP = 67_000
VOCABULARY = 16_000
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 256, "n_layer": 12, "n_head": 4, "n_positions": 512, "vocab_size": VOCABULARY},
    "llama": {
        "hidden_size": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "intermediate_size": 688,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "vocab_size": VOCABULARY,
    },
    "gpt_neox": {  # Pythia-14m: half of its numbers are a vocabulary of 50,304
        "hidden_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "vocab_size": 50_304,
    },
}


def main() -> None:
    """Measure and print one line for each way of calling minicons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="*", default=[], help="files or folders of minimal pairs")
    parser.add_argument("--count", type=int, default=1000, help="pairs to score, taken evenly from all files")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minicons", nargs="*", default=["pair", "10", "64"], help="sentences per call, or `pair`")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    files = read_files(arguments.pairs, arguments.count)
    model, hf_tokenizer, tokenizer = make_model(arguments.shape, files)
    ours = timed(lambda: score_ours(model, tokenizer, files))
    theirs = {
        size: timed(lambda size=size: score_minicons(model, hf_tokenizer, files, size)) for size in arguments.minicons
    }
    report(files, ours, theirs, arguments.rounds)


def read_files(paths: list[str], count: int) -> list[PairFile]:
    """Return about `count` pairs, the same number from the start of every file."""
    files = [read_pair_file(path) for path in find_pair_files(paths)] if paths else [invented(count)]
    each = max(1, count // len(files))
    return [file._replace(pairs=file.pairs[:each]) for file in files]


def invented(count: int) -> PairFile:
    """Make up pairs that differ in one word near the end, as most of BLiMP's do."""
    rng = random.Random(0)
    syllables = ["".join(parts) for parts in itertools.product("bdgklmnprstv", "aeiou", ["", "n", "r", "s"])]
    words = ["".join(rng.choices(syllables, k=2)) for _ in range(5000)]
    pairs = []
    for number in range(count):
        sentence = rng.choices(words, k=rng.randint(5, 11))
        other = list(sentence)
        other[rng.randrange(len(sentence) // 2, len(sentence))] = rng.choice(words)
        good, bad = " ".join(sentence) + ".", " ".join(other) + ", not."
        pairs.append(MinimalPair(Side("", good), Side("", bad), f"invented:{number}", str(number), "", ""))
    return PairFile(Path("invented.jsonl"), pairs, 0)


def make_model(shape: str, files: list[PairFile]) -> tuple[Any, Any, Any]:
    """Return a random model, a BPE tokenizer for minicons, and the same tokenizer for scoring."""
    from tokenizers import Tokenizer, models, normalizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    config = AutoConfig.for_model(shape, bos_token_id=2, eos_token_id=3, pad_token_id=0, **SHAPES[shape])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    texts = [side.text for file in files for pair in file.pairs for side in (pair.good, pair.bad)]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator((word for text in texts for word in text.split()), trainer)
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    mine = SimpleNamespace(
        vocab_size=config.vocab_size,
        bos_id=2,
        eos_id=3,
        unk_id=1,
        encode_batch=lambda batch: [encoding.ids for encoding in tokenizer.encode_batch(list(batch))],
    )
    print(f"{shape}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {config._attn_implementation}")
    return model, PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names), mine


def score_ours(model: Any, tokenizer: Any, files: list[PairFile]) -> list[float]:
    """Return the summed log-probability of every sentence."""
    scored = [entry for file in files for entry in score_pairs(model, tokenizer, file)]
    return [score.logprob for entry in scored for score in (entry.good, entry.bad)]


def score_minicons(model: Any, tokenizer: Any, files: list[PairFile], size: str) -> list[float]:
    """Return the same from minicons, `size` sentences at a time."""
    from minicons.scorer import IncrementalLMScorer

    scorer = IncrementalLMScorer(model, "cpu", tokenizer=tokenizer)
    texts = [side.text for file in files for pair in file.pairs for side in (pair.good, pair.bad)]
    step = 2 if size == "pair" else int(size)
    found: list[float] = []
    for start in range(0, len(texts), step):
        found += scorer.sequence_score(
            texts[start : start + step], reduction=lambda x: x.double().sum().item(), bos_token=True
        )
    return found


def timed(function: Callable[[], list[float]]) -> Callable[[], tuple[float, list[float]]]:
    """Make a function return its seconds too."""

    def run() -> tuple[float, list[float]]:
        start = time.perf_counter()
        result = function()
        return time.perf_counter() - start, result

    return run


def report(files: list[PairFile], ours: Any, theirs: dict[str, Any], rounds: int) -> None:
    """Run both sides in turn and print the medians."""
    count = sum(len(file.pairs) for file in files)
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *theirs)}
    worst = 0.0
    ours()  # the first call pays for memory that later ones find ready
    for _ in range(rounds):
        elapsed, expected = ours()
        seconds["ours"].append(elapsed)
        for name, run in theirs.items():
            elapsed, found = run()
            seconds[name].append(elapsed)
            worst = max(worst, *(abs(a - b) for a, b in zip(expected, found, strict=True)))
    mine = statistics.median(seconds["ours"])
    print(f"{count:,} pairs; largest difference of a sentence's score: {worst:.1e} nats")
    print(f"{'':24}{'pairs/s':>10}{'67,000 pairs':>15}{'ratio':>8}")
    for name, times in seconds.items():
        each = statistics.median(times)
        label = name if name == "ours" else f"minicons, {name if name == 'pair' else name + ' sentences'}"
        print(f"{label:24}{count / each:10.0f}{BLIMP * each / count:13.0f} s{each / mine:8.1f}")


if __name__ == "__main__":
    main()
