"""What contestants share: the experiment as a config, a prepared corpus, random batches, and a stopwatch."""

import os
import random
import time
from pathlib import Path

import torch
from shapes import Shape, device_of

from foundry_config import ExperimentConfig, config_from_dict
from foundry_train.memory import memory_use

STARTED = "FOUNDRY_BENCHMARK_STARTED"
WARM_UP_STEPS = 5
CORPUS_WORDS = 600_000


def make_config(name: str, shape: Shape, folder: Path, *, steps: int, compile_mode: str, run: str) -> ExperimentConfig:
    """The experiment that `Trainer` runs, and from which every contestant builds its model."""
    activation = "silu" if shape.architecture == "llama" else "gelu_new"
    return config_from_dict(
        {
            "experiment_name": name,
            "data": {
                "source_corpus": str(folder / "corpus.txt"),
                "training_corpus": str(folder / "prepared"),
                "text_documents": "line",
                "batch_size": shape.batch,
                "max_sequence_length": shape.length,
                "drop_last": True,  # a short batch would be compiled again, and count as a full one
            },
            "tokenizer": {"vocab_size": shape.vocab, "model_type": "bpe"},
            "model": {
                "architecture": shape.architecture,
                "layers": shape.layers,
                "embedding_size": shape.width,
                "hidden_size": shape.width,
                "intermediate_hidden_size": shape.inner,
                "attention_heads": shape.heads,
                "activation_function": activation,
            },
            "training": {
                "output_dir": run,
                "learning_rate": 3e-4,
                "train_steps": steps,
                "epochs": 1000,
                "precision": shape.precision,
                "compile": compile_mode,
                "device": device_of(name),
                "threads": shape.threads,
            },
            "evaluation": {"max_sequences": 1, "sample_tokens": 0},
        }
    )


def write_corpus(folder: Path) -> None:
    """Write text with enough different words for the largest vocabulary; the same every time."""
    path = folder / "corpus.txt"
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    words = ["".join(draw.choices(letters, k=draw.randint(3, 9))) for _ in range(80_000)]
    lines = (" ".join(draw.choices(words, k=60)) for _ in range(CORPUS_WORDS // 60))
    path.write_text("\n".join(lines) + "\n")


def random_batches(shape: Shape, count: int = 16) -> list[torch.Tensor]:
    """Token ids as a loader would give them, on the CPU. [B, T] each"""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, shape.vocab, (shape.batch, shape.length), generator=generator) for _ in range(count)]


class Stopwatch:
    """Times every step from the outside; the first ones, which warm everything up, are left out of the rate.

    On CUDA the device stamps the steps itself: to wait for each would take the lead of the host away.
    """

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self._shape = shape
        self._device = device
        self._marks: list[float] = []
        self._events: list[torch.cuda.Event] = []
        self._first: float | None = None

    def step(self) -> None:
        """An update has been made."""
        if self._device.type == "cuda":
            self._events.append(torch.cuda.Event(enable_timing=True))
            self._events[-1].record(torch.cuda.current_stream(self._device))
        if self._first is None:
            if self._events:
                self._events[0].synchronize()
            self._first = time.time()
        self._marks.append(time.perf_counter())

    def result(self) -> dict[str, float | None]:
        """Tokens per second, seconds from the start of the process to the first update, peak memory."""
        if self._events:
            self._events[-1].synchronize()
            self._marks = [self._events[0].elapsed_time(event) / 1000 for event in self._events]
        timed = self._marks[WARM_UP_STEPS:]
        started = os.environ.get(STARTED)
        first = self._first - float(started) if started is not None and self._first is not None else None
        return {
            "tokens_per_second": (len(timed) - 1) * self._shape.tokens / (timed[-1] - timed[0]),
            "first_step_seconds": first,
            "peak_bytes": memory_use(self._device).peak,
        }
