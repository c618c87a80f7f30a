"""Whole runs on a CUDA device: what a CPU cannot show. Skipped where there is none.

    pytest -m gpu

The fp32 runs compare with the same run on the CPU: a loss that agrees to a few parts in 100,000 over many updates is
the same training.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from foundry_train.devices import get_device, peak_flops

pytestmark = [pytest.mark.slow, pytest.mark.gpu]

GPT2 = {
    "architecture": "gpt2",
    "layers": 2,
    "embedding_size": 64,
    "hidden_size": 64,
    "intermediate_hidden_size": 256,
    "attention_heads": 2,
    "dropout": 0.0,
}
# keeps B x H x T x T scores: memory that grows with the micro-batch
HUNGRY = {
    "model": GPT2 | {"attention": "eager", "attention_heads": 8},
    "data": {"batch_size": 32, "max_sequence_length": 512},
}
LLAMA = GPT2 | {"architecture": "llama", "activation_function": "swiglu"}


@pytest.fixture
def losses(project, read, tmp_path):
    """Trains and returns the loss of every step; the name of the run's folder comes from the settings."""

    def train(model: dict[str, Any] | None = None, *, data: dict[str, Any] | None = None, **training: Any) -> list:
        run = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        changes = {"model": model or GPT2, "data": data or {}}
        settings = {"device": "cuda", "train_steps": 6, "warmup_steps": 0, "learning_rate": 1e-3} | training
        summary = project.train(project.config(run, changes=changes, **settings))
        train.run = summary.run_dir
        return [record["loss"] for record in read.records(summary.run_dir, "step")]

    return train


@pytest.fixture
def small_card(losses, read):
    """Leaves so much of the card's memory that a step with 8 sequences fits, but none with 16."""
    gc.collect()  # models of earlier tests
    torch.cuda.empty_cache()
    losses(**HUNGRY, micro_batch_size=8, train_steps=1)
    peak = max(record["memory_bytes"] for record in read.records(losses.run, "step"))
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.5 * peak / torch.cuda.get_device_properties(0).total_memory, 0)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, 0)


def test_auto_trains_on_the_card_and_measures_it(losses, read):
    found = losses(device="auto", precision="bf16", train_steps=40, learning_rate=0.01)

    steps = read.records(losses.run, "step")
    environment = json.loads((losses.run / "environment.json").read_bytes())
    assert found[-1] < 0.9 * found[0]
    assert all(record["memory_bytes"] > 0 and record["tokens_per_second"] > 0 for record in steps)
    assert environment["hardware"]["gpus"] and environment["hardware"]["driver"]
    if peak_flops(get_device(), "bf16") is not None:
        assert all(0 < record["mfu"] < 1 for record in steps)
    log = "".join(path.read_text() for path in Path(losses.run / "logs").glob("*.log"))
    assert "only training.deterministic: true makes sure" in log and "fragmented" not in log


def test_growing_segments_are_in_force_before_cuda_starts():
    program = """
import torch
from foundry_train.memory import setup_memory
setup_memory(torch.device("cuda:0"))
torch.zeros(1, device="cuda:0")
assert torch.cuda.memory._snapshot()["allocator_settings"]["expandable_segments"], "they are not"
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("ALLOC_CONF")}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_fp32_on_the_card_trains_as_on_the_cpu(losses, model):
    assert losses(model) == pytest.approx(losses(model, device="cpu"), rel=3e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "tf32"},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"precision": "bf16", "bf16_params": True},
        {"precision": "bf16", "compile": "on"},
        {"precision": "bf16", "chunked_loss": "on"},
        {"precision": "fp16", "chunked_loss": "on"},
        {"precision": "bf16", "chunked_loss": "on", "compile": "on"},
        {"precision": "bf16", "gradient_checkpointing": True},
        {"precision": "bf16", "gradient_accumulation_steps": 2, "micro_batch_size": 4},
    ],
    ids=lambda settings: " ".join(f"{key}={value}" for key, value in settings.items()),
)
def test_every_setting_trains_as_fp32_does(losses, settings):
    accumulation = {key: value for key, value in settings.items() if key == "gradient_accumulation_steps"}

    assert losses(**settings) == pytest.approx(losses(**accumulation), rel=0.01)


def test_a_compiled_run_saves_names_without_a_prefix(losses):
    losses(compile="on", train_steps=2)

    names = load_file(losses.run / "latest" / "model.safetensors")

    assert all(name.startswith("transformer.") for name in names)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex"])
@pytest.mark.parametrize("documents", [False, True], ids=["rows", "documents"])
def test_every_attention_computes_the_same(losses, attention, documents):
    model = LLAMA | {"attention": attention}
    data = {"document_mask": documents}

    assert losses(model, data=data) == pytest.approx(losses(LLAMA, data=data, device="cpu"), rel=1e-4)


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adafactor"])
def test_every_optimizer_updates_as_on_the_cpu(losses, optimizer):
    settings = {"optimizer": optimizer, "learning_rate": 1e-3}

    # Muon orthogonalises in bf16
    assert losses(**settings) == pytest.approx(losses(device="cpu", **settings), rel=5e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"precision": "bf16", "bf16_params": True},
        {"precision": "fp32", "optimizer": "muon"},
        {"precision": "bf16", "compile": "on"},
    ],
    ids=lambda settings: " ".join(f"{key}={value}" for key, value in settings.items()),
)
def test_a_stopped_run_goes_on_bit_for_bit(project, read, tmp_path, settings, stop_at):
    changes = {"model": GPT2 | {"dropout": 0.1}}
    settings = {"device": "cuda", "deterministic": True, "train_steps": 10, **settings}

    whole = project.train(project.config(tmp_path / "whole", changes=changes, **settings))
    config = project.config(tmp_path / "cut", changes=changes, **settings)
    first = project.train(config, hooks=[stop_at(4)])
    second = project.train(config)

    assert first.exit_code == 143 and second.resumed_from == 4
    assert read.losses(second) == read.losses(whole) and read.weights(second) == read.weights(whole)


def test_evaluations_and_checkpoints_on_the_way_change_no_bit(project, read, tmp_path):
    changes = {"model": GPT2 | {"dropout": 0.1}}
    settings = {"device": "cuda", "deterministic": True, "train_steps": 8, "precision": "bf16"}
    busy = {"evaluation": {"every_steps": 2, "sample_every_steps": 3, "max_sequences": 8, "sample_tokens": 8}}

    plain = project.train(project.config(tmp_path / "plain", changes=changes, **settings))
    settings |= {"save_every_steps": 3, "checkpoint_schedule": (0, 1, 5)}
    other = project.train(project.config(tmp_path / "busy", changes=changes | busy, **settings))

    assert read.losses(other) == read.losses(plain) and read.weights(other) == read.weights(plain)


def out_of_memory_events(read, run):
    return [record for record in read.records(run, "event") if record["event"] == "oom"]


def test_real_lack_of_memory_halves_the_micro_batch_and_replays_the_batch(losses, read, small_card):
    halved = losses(**HUNGRY, micro_batch_size=32, train_steps=3)
    events = out_of_memory_events(read, losses.run)
    torch.cuda.set_per_process_memory_fraction(1.0, 0)

    few = losses(**HUNGRY, micro_batch_size=8, train_steps=3)

    assert events[-1]["after"] == 8
    assert halved == pytest.approx(few, rel=1e-6)


def test_auto_finds_the_micro_batch_that_fits_by_trying(losses, read, small_card):
    losses(**HUNGRY, micro_batch_size="auto", train_steps=1)

    assert json.loads((losses.run / "micro_batch.json").read_bytes())["micro_batch"] == 8
    assert out_of_memory_events(read, losses.run) == []


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gpt_neox", {}),
        ("opt", {"activation_function": "relu"}),
        ("mistral", {"activation_function": "silu"}),
        ("qwen3", {"activation_function": "silu"}),
        ("olmo2", {"activation_function": "silu"}),
        ("gemma3", {}),
        ("smollm3", {"activation_function": "silu"}),
        ("mamba", {"activation_function": "silu", "intermediate_hidden_size": 128}),
        ("mamba2", {"activation_function": "silu", "intermediate_hidden_size": 128, "extra": {"chunk_size": 8}}),
        ("rwkv", {"activation_function": "relu2"}),
    ],
)
def test_every_architecture_trains_as_on_the_cpu(losses, name, model):
    model = GPT2 | {"architecture": name} | model

    assert losses(model, train_steps=3) == pytest.approx(losses(model, train_steps=3, device="cpu"), rel=1e-4)


def test_the_kernels_of_liger_compute_the_same(losses):
    pytest.importorskip("liger_kernel", reason="needs the extra foundry-train[liger]")

    assert losses(LLAMA, liger_kernels=True) == pytest.approx(losses(LLAMA), rel=1e-4)
