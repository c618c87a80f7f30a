"""A project small enough to train a hundred times: a corpus of short sentences and a model of one recurrent layer."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from foundry_config import ExperimentConfig, config_from_dict
from foundry_train import Hook, Moment, Trainer, TrainingSummary
from foundry_train.metrics_log import read_metrics

MODULE = '''
import torch
from torch import nn


class Output:
    def __init__(self, logits):
        self.logits = logits


class TinyModel(nn.Module):
    """A causal model of one recurrent layer."""

    def __init__(self, vocab_size, dropout):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 16)
        self.mix = nn.GRU(16, 16, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, vocab_size)

    def forward(self, input_ids, **ignored):
        return Output(self.head(self.dropout(self.mix(self.embedding(input_ids))[0])))


def tiny(request):
    return TinyModel(request.vocab_size, request.model.dropout)
'''


class TinyProject:
    """A folder with a corpus; what is prepared from it is shared by all tests of a session."""

    def __init__(self, folder: Path) -> None:
        words = ["the cat sat on the mat", "a dog ran to the house", "we see the red bird", "you and I go home"]
        lines = [f"{words[i % 4]} {words[(i * 7 + 1) % 4]} number {i}." for i in range(400)]
        (folder / "corpus.txt").write_text("\n".join(lines) + "\n")
        (folder / "tiny_trainer_model.py").write_text(MODULE)
        self.folder = folder

    def config(self, run: Path, *, changes: dict[str, Any] | None = None, **training: Any) -> ExperimentConfig:
        """The experiment that trains into `run`; `changes` replace fields of sections, `training` those of training."""
        values: dict[str, Any] = {
            "experiment_name": "trainer-test",
            "data": {
                "source_corpus": str(self.folder / "corpus.txt"),
                "training_corpus": str(self.folder / "prepared"),
                "text_documents": "line",
                "batch_size": 8,
                "max_sequence_length": 16,
                "test_fraction": 0.1,
                "num_workers": 1,
            },
            "tokenizer": {"vocab_size": 34, "model_type": "char", "byte_fallback": False, "character_coverage": 1.0},
            "model": {
                "architecture": "tiny_trainer_model:tiny",
                "layers": 1,
                "embedding_size": 16,
                "hidden_size": 16,
                "intermediate_hidden_size": 16,
                "attention_heads": 1,
                "dropout": 0.1,
            },
            "training": {
                "output_dir": str(run),
                "learning_rate": 0.02,
                "train_steps": 12,
                "warmup_steps": 2,
                "device": "cpu",
                "save_every_minutes": None,
            },
            "evaluation": {"max_sequences": 8, "sample_tokens": 5},
            "random_seed": 7,
        }
        values["training"] |= training
        for section, fields in (changes or {}).items():
            values[section] = values.get(section, {}) | fields if isinstance(fields, dict) else fields
        return config_from_dict(values)

    def train(self, config: ExperimentConfig, **settings: Any) -> TrainingSummary:
        return Trainer(config, self.folder, **settings).train()


@pytest.fixture(scope="session")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    return TinyProject(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(shared_project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> TinyProject:
    """The project, with its module on the path and outside of any git repository."""
    monkeypatch.syspath_prepend(shared_project.folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(shared_project.folder.parent))
    return shared_project


class StopAt(Hook):
    """Sends a signal to this process after a step, as a cluster would."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def on_step(self, moment: Moment) -> None:
        if moment.step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def stop_at() -> type[StopAt]:
    return StopAt


class RunReader:
    """Looks into what a run has written."""

    def records(self, run: Path, kind: str) -> list[dict[str, Any]]:
        return [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == kind]

    def losses(self, summary: TrainingSummary) -> list[str]:
        """The exact loss of every step."""
        return [record["loss"].hex() for record in self.records(summary.run_dir, "step")]

    def weights(self, summary: TrainingSummary) -> str:
        """The digest of the last weights."""
        return json.loads((summary.checkpoint / "MANIFEST.json").read_bytes())["weights"]["digest"]


@pytest.fixture
def read() -> RunReader:
    return RunReader()
