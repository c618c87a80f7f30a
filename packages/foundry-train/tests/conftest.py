"""A run with checkpoints small enough for unit tests: real manifests and tokenizer, weights of a few numbers."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from foundry_config import ExperimentConfig, canonical_json, parse_config
from foundry_data import train_tokenizer, write_hf_tokenizer
from foundry_train.manifest import Consumed, FileEntry, Manifest, WeightsSummary, seal

STUDY = """
experiment_name: {name}
random_seed: {seed}
data: {{source_corpus: "builtin:python-docs", batch_size: 2, max_sequence_length: 16}}
tokenizer: {{vocab_size: 300}}
model: {{layers: 1, embedding_size: 8, hidden_size: 8, intermediate_hidden_size: 16, attention_heads: 2}}
training: {{output_dir: runs/study, learning_rate: {learning_rate}, train_steps: 4}}
"""


@pytest.fixture
def study_config() -> ExperimentConfig:
    return parse_config(STUDY.format(name="study", seed=1, learning_rate=1e-3))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    text = "the dog barks and the dogs bark while a cat sleeps near the old house of the old man"
    tokenizer = train_tokenizer([text] * 3, vocab_size=300, model_type="bpe")
    write_hf_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture
def make_run(tmp_path: Path, tokenizer_folder: Path) -> Callable[..., Path]:
    """Makes a run folder whose weights file holds a text, from which a test makes its model."""

    def make(
        name: str = "run",
        *,
        steps: tuple[int, ...] = (0, 4),
        seed: int = 1,
        experiment: str = "study",
        learning_rate: float = 1e-3,
        label: str | None = None,
    ) -> Path:
        run = tmp_path / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "run.json").write_text("{}")
        config = parse_config(STUDY.format(name=experiment, seed=seed, learning_rate=learning_rate))
        (run / "config.json").write_bytes(canonical_json(config))
        for step in steps:
            weights = json.dumps({"seed": seed, "step": step}).encode()
            write_checkpoint(run / "checkpoints" / f"step-{step:08d}", weights, tokenizer_folder, step, label)
        return run

    return make


def write_checkpoint(folder: Path, weights: bytes, tokenizer_folder: Path, step: int, label: str | None) -> None:
    """Write a checkpoint folder with a true manifest."""
    folder.mkdir()
    files = {path.name: path.read_bytes() for path in tokenizer_folder.iterdir()}
    files |= {"model.safetensors": weights, "config.json": b'{"model_type": "toy"}'}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    entries = {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    manifest = Manifest(
        run_id="r",
        step=step,
        kind="weights",
        milestone=True,
        label=label,
        files=entries,
        weights=WeightsSummary("sha256:" + hashlib.sha256(weights).hexdigest(), 1, 1),
        consumed=Consumed(samples=step * 2, tokens=step * 32, words=step * 20),
    )
    (folder / "MANIFEST.json").write_bytes(seal(manifest)[1])
