"""What is refused before any data are prepared."""

import json
import logging

import pytest
import torch

from foundry_config import ConfigError, DataError, ExperimentPaths, config_from_dict
from foundry_train import compilation
from foundry_train.distributed import World
from foundry_train.matrix import expand_matrix
from foundry_train.rehearsal import rehearse, rehearse_matrix

pytestmark = pytest.mark.slow

MODULE = """
def model(request):
    raise AssertionError("built before there are data")


def wild(step, shape):
    return 7


def optimizer(model, training, device):
    raise AssertionError("made without weights")
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Make a config of a section's changes."""
    (tmp_path / "own_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def make(**sections):
        model = {
            "layers": 3,
            "embedding_size": 16,
            "hidden_size": 16,
            "intermediate_hidden_size": 32,
            "attention_heads": 2,
        }
        values = {
            "experiment_name": "rehearsal",
            "data": {"source_corpus": "none.txt", "batch_size": 4, "max_sequence_length": 16},
            "tokenizer": {"vocab_size": 5000},
            "model": model,
            "training": {"output_dir": str(tmp_path / "run"), "learning_rate": 0.1, "device": "cpu"},
        }
        for name, fields in sections.items():
            values[name] = values.get(name, {}) | fields
        return config_from_dict(values)

    return make


def run(config, tmp_path):
    rehearse(config, ExperimentPaths(config, tmp_path), World())


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"model": {"architecture": "mamba"}}, r"model.activation_function: mamba always computes with silu"),
        ({"model": {"architecture": "hf:lama"}}, r"Did you mean 'llama'"),
        ({"model": {"extra": {"n_lyer": 1}}}, r"model.extra.n_lyer: .*Did you mean 'n_layer'"),
        ({"model": {"attention": "flash_attention_2"}}, r"model.attention: 'flash_attention_2' cannot be used"),
        ({"model": {"architecture": "gemma3", "extra": {"sliding_window": None}}}, r"'gemma3' does not run on"),
        ({"model": {"architecture": "no_module:f"}}, r"cannot import module 'no_module'"),
        ({"model": {"architecture": "own_parts:mdel"}}, r"Did you mean 'model'"),
        ({"training": {"optimizer": "own_parts:optimiser"}}, r"Did you mean 'optimizer'"),
        ({"training": {"lr_schedule": "own_parts:warm"}}, r"lr_schedule 'own_parts:warm'"),
        ({"model": {"attention": "flex", "architecture": "llama"}}, r"'flex' cannot be trained on a CPU"),
        ({"training": {"lr_schedule": "own_parts:wild"}}, r"lr_schedule 'own_parts:wild' returned 7"),
        ({"training": {"liger_kernels": True}}, r"training.liger_kernels: they run on CUDA only"),
        ({"training": {"chunked_loss": "on"}, "model": {"architecture": "hf:gemma2"}}, r"training.chunked_loss: "),
        (
            {"data": {"document_mask": True}, "model": {"architecture": "mamba", "activation_function": "silu"}},
            r"data.document_mask: architecture 'mamba' lets tokens see other documents",
        ),
        ({"logging": {"sinks": ["own_parts:sink"]}}, r"sink 'own_parts:sink'"),
    ],
)
def test_what_would_come_to_light_after_the_data_is_told_before_them(config, tmp_path, sections, told):
    with pytest.raises(ConfigError, match=told):
        run(config(**sections), tmp_path)


def test_a_compiler_that_is_missing_is_told_before_the_data(config, tmp_path, monkeypatch):
    def missing():
        raise ConfigError("no compiler")

    monkeypatch.setattr(compilation, "require_cpp_compiler", missing)

    with pytest.raises(ConfigError, match="no compiler"):
        run(config(training={"compile": "on"}, model={"architecture": "own_parts:model"}), tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "no such file"), ('{"sentence_good": "a"}', "pairs.jsonl"), ("{", "pairs.jsonl")],
)
def test_minimal_pairs_are_read_before_the_data(config, tmp_path, content, told):
    if content is not None:
        (tmp_path / "pairs.jsonl").write_text(content + "\n")

    with pytest.raises(DataError, match=told):
        run(config(evaluation={"minimal_pairs": ["pairs.jsonl"]}), tmp_path)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"architecture": "own_parts:model"}},  # is not called
        {"training": {"optimizer": "own_parts:optimizer"}},
        {"training": {"optimizer": "muon", "chunked_loss": "on", "gradient_checkpointing": True}},
        {"data": {"document_mask": True}, "model": {"architecture": "llama"}},
        {"model": {"architecture": "rwkv", "activation_function": "relu2"}},
        {"model": {"use_flash_attention": True}, "training": {"precision": "tf32"}},
    ],
)
def test_what_can_train_passes_without_a_word_and_without_a_trace(config, tmp_path, caplog, sections):
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"sentence_good": "a b", "sentence_bad": "b a"}) + "\n")
    before = torch.get_rng_state()

    with caplog.at_level(logging.INFO):
        run(config(evaluation={"minimal_pairs": ["pairs.jsonl"]}, **sections), tmp_path)

    assert torch.equal(torch.get_rng_state(), before)
    assert caplog.records == [] and not (tmp_path / "run").exists()


def test_a_run_of_a_matrix_that_cannot_train_is_named(config, tmp_path):
    cells = expand_matrix(config(matrix={"model.architecture": ["gpt2", "hf:lama"]}))

    with pytest.raises(ConfigError, match=r"run 1 of the matrix \(.*lama\): .*'llama'"):
        rehearse_matrix(cells, tmp_path)
