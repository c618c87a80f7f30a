"""Run the command line in this process, and make folders that look like runs."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from foundry_cli import run
from foundry_train.manifest import Consumed, FileEntry, Manifest, WeightsSummary, seal


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
