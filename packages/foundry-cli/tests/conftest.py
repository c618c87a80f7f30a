"""Run the command line in this process, and make folders that look like runs."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from foundry_cli import run
from foundry_cli.commands.init import starter_text
from foundry_train.manifest import Consumed, FileEntry, Manifest, WeightsSummary, seal

TEXTS = "\n".join(f"line {number} of a small corpus about nothing in particular" for number in range(400))


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def foundry(capsys, monkeypatch, tmp_path):
    """Call `foundry("validate", path)`; the working directory is an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


def write_checkpoint(run_folder: Path, step: int, **changes: Any) -> Path:
    """Write a checkpoint whose only file is a stand-in for the weights."""
    folder = run_folder / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    content = f"weights of step {step}".encode()
    (folder / "model.safetensors").write_bytes(content)
    values: dict[str, Any] = {
        "run_id": "test",
        "step": step,
        "kind": "full",
        "files": {"model.safetensors": FileEntry(len(content), hashlib.sha256(content).hexdigest())},
        "weights": WeightsSummary(digest=f"sha256:{step}", tensors=1, params=10),
        "consumed": Consumed(tokens=step * 1000, words=step * 700),
        "loss": 5.0,
    }
    _, data = seal(Manifest(**{**values, **changes}))
    (folder / "MANIFEST.json").write_bytes(data)
    return folder


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A run with rolling checkpoints at 10, 20, 30 and a milestone at 16, labelled `chck_1M`."""
    folder = tmp_path / "runs" / "small"
    for step in (10, 20, 30):
        write_checkpoint(folder, step)
    write_checkpoint(folder, 16, kind="weights", milestone=True, label="chck_1M")
    return folder


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with a corpus and a config that fits it; returns the config."""
    (tmp_path / "corpus.txt").write_text(TEXTS)
    text = starter_text(corpus="corpus.txt", name="small", schema="s.json")
    text = text.replace("vocab_size: 4096", "vocab_size: 300").replace("batch_size: 8 ", "batch_size: 2 ")
    config = tmp_path / "small.yaml"
    config.write_text(text.replace("data:\n", "data:\n  text_documents: line\n  num_workers: 1\n"))
    return config
