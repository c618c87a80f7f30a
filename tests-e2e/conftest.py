"""The fixtures of the seed, and one small trained run that the end-to-end tests share.

The shared run is the seed's end-to-end set-up: 1000 sequences, 2 layers, 64 hidden units, 10 steps, 2 checkpoints. It
is trained once per session, through the command line.
"""

import contextlib
import io
import json
import random
from pathlib import Path
from typing import NamedTuple

import pytest

from foundry_cli import run
from foundry_config import (
    DataConfig,
    ExperimentConfig,
    LoggingConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)

ROOT = Path(__file__).resolve().parent.parent


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def foundry(*arguments: object) -> Answer:
    """Run the command line in this process, as `foundry ARGUMENTS` would."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.fixture(name="foundry", scope="session")
def foundry_command():
    return foundry


SUBJECTS = ("the cat", "a small dog", "every child", "the old teacher", "my neighbour", "some bird", "the captain")
VERBS = ("sees", "follows", "likes", "draws", "remembers", "hears", "paints")
OBJECTS = ("a red house", "the blue boat", "two green apples", "the long road", "a quiet garden", "the tall tower")
ENDINGS = ("every morning", "in the rain", "without a word", "near the river", "when the sun sets", "for a while")


def write_corpus(path: Path, *, documents: int, seed: int = 0) -> Path:
    """Write a corpus of simple English, one sentence a line, each a document of its own."""
    draw = random.Random(seed)
    lines = [
        f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)} {draw.choice(ENDINGS)}."
        for _ in range(documents)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_config(folder: Path, **changes) -> Path:
    """Write the config of a tiny experiment on `corpus.txt` into `folder`; `changes` are dotted fields."""
    fields = {
        "experiment_name": "tiny",
        "data": {
            "source_corpus": "corpus.txt",
            "text_documents": "line",
            "packing": "document",
            "test_fraction": 0.0,
            "batch_size": 8,
            "max_sequence_length": 48,
            "num_workers": 1,
        },
        "tokenizer": {"vocab_size": 300, "model_type": "bpe"},
        "model": {
            "layers": 2,
            "embedding_size": 64,
            "hidden_size": 64,
            "intermediate_hidden_size": 128,
            "attention_heads": 2,
        },
        "training": {
            "output_dir": "runs/tiny",
            "learning_rate": 1e-2,
            "train_steps": 10,
            "warmup_steps": 2,
            "checkpoint_schedule": [5, 10],
            "save_every_minutes": None,
            "device": "cpu",
            "threads": 1,
        },
        "evaluation": {"sample_tokens": 8, "max_sequences": 8},
        "random_seed": 42,
    }
    for path, value in changes.items():
        section, _, field = path.partition("__")
        if field:
            fields[section][field] = value
        else:
            fields[section] = value
    config = folder / "tiny.json"
    config.write_text(json.dumps(fields), encoding="utf-8")
    return config


@pytest.fixture(scope="session")
def make_experiment():
    """A function that writes a corpus and a config into a folder: `make_experiment(folder, **changes)`."""

    def make(folder: Path, *, documents: int = 120, **changes) -> Path:
        write_corpus(folder / "corpus.txt", documents=documents)
        return write_config(folder, **changes)

    return make


class TrainedRun(NamedTuple):
    """The shared run."""

    folder: Path
    config: Path
    run: Path
    summary: dict
    answer: Answer

    @property
    def steps(self) -> list[dict]:
        lines = (self.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [record for record in map(json.loads, lines) if record["kind"] == "step"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> TrainedRun:
    """1000 sequences, 2 layers, 64 hidden, 10 steps, 2 checkpoints. Read it, never change it."""
    folder = tmp_path_factory.mktemp("trained")
    write_corpus(folder / "corpus.txt", documents=1000)
    config = write_config(folder)
    answer = foundry("train", config, "--json")
    assert answer.code == 0, answer.err
    return TrainedRun(folder, config, folder / "runs" / "tiny", answer.json, answer)


@pytest.fixture
def workspace(tmp_path) -> Path:
    """A folder with a corpus of 120 documents and the config of a tiny experiment on it (`tiny.json`)."""
    write_corpus(tmp_path / "corpus.txt", documents=120)
    write_config(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_config() -> ExperimentConfig:
    """Minimal valid configuration for fast tests (the seed's)."""
    return ExperimentConfig(
        experiment_name="test_exp",
        data=DataConfig(
            source_corpus="test/data", training_corpus="test/data/train", batch_size=2, max_sequence_length=32
        ),
        tokenizer=TokenizerConfig(output_dir="test/tokenizer", vocab_size=1000),
        model=ModelConfig(
            layers=2,
            embedding_size=64,
            hidden_size=64,
            intermediate_hidden_size=128,
            attention_heads=2,
            activation_function="gelu",
            dropout=0.1,
            attention_dropout=0.1,
        ),
        training=TrainingConfig(
            output_dir="test/output",
            learning_rate=1e-4,
            adam_beta1=0.9,
            adam_beta2=0.999,
            adam_epsilon=1e-8,
            epochs=1,
            train_steps=10,
            warmup_steps=2,
        ),
        logging=LoggingConfig(level="INFO", dir="test/logs", use_wandb=False),
        random_seed=42,
    )


@pytest.fixture
def tiny_dataset():
    """Small tokenized dataset for testing (the seed's)."""
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"input_ids": [[1, 2, 3, 4, 5] * 10 for _ in range(100)]})


@pytest.fixture
def mock_tokenizer():
    """Simple mock tokenizer (the seed's)."""

    class MockTokenizer:
        vocab_size = 1000
        pad_token = "<pad>"
        eos_token = "</s>"
        pad_token_id = 0
        eos_token_id = 1

        def encode(self, text, add_special_tokens=True):
            return [1, 2, 3, 4, 5]

        def decode(self, ids, skip_special_tokens=True):
            return "test text"

        def save_pretrained(self, path):
            pass

    return MockTokenizer()


@pytest.fixture
def temp_workspace(tmp_path) -> Path:
    """Temporary workspace with proper structure (the seed's)."""
    workspace = tmp_path / "workspace"
    (workspace / "data").mkdir(parents=True)
    (workspace / "models").mkdir(parents=True)
    (workspace / "logs").mkdir(parents=True)
    return workspace
