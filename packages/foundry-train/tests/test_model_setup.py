"""What is decided about a model before it trains: chunks, compilation, checkpointing of activations, masks."""

import sys
import types

import pytest
import torch
from torch import nn

from foundry_config import config_from_dict
from foundry_config.errors import ConfigError
from foundry_train import build, compilation, model_setup
from foundry_train.build import fingerprint_of
from foundry_train.distributed import World
from foundry_train.model_setup import prepare_for_training, use_liger_kernels, wants_chunked_loss

CPU = torch.device("cpu")


class Recorder(nn.Module):
    """A model that remembers how it was asked for gradient checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.asked: list[dict] = []

    def gradient_checkpointing_enable(self, **settings) -> None:
        self.asked.append(settings)


def make_config(*, document_mask: bool = False, **training):
    return config_from_dict(
        {
            "experiment_name": "setup",
            "data": {
                "source_corpus": "none",
                "batch_size": 4,
                "max_sequence_length": 1024,
                "document_mask": document_mask,
            },
            "tokenizer": {"vocab_size": 50_000},
            "model": {
                "layers": 1,
                "embedding_size": 8,
                "hidden_size": 8,
                "intermediate_hidden_size": 8,
                "attention_heads": 1,
            },
            "training": {"output_dir": "run", "learning_rate": 0.1} | training,
        }
    )


def prepare(model: nn.Module, config):
    return prepare_for_training(model, config, device=CPU, micro_batch=4, expected_seconds=None)


class Searching(nn.Module):
    """A part of a model that looks for padding whenever it is called, as those of transformers do."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner

    def warn_if_padding_and_no_attention_mask(self, input_ids, attention_mask) -> None:
        raise AssertionError("looked for padding")

    def forward(self, input_ids):
        self.warn_if_padding_and_no_attention_mask(input_ids, None)
        return input_ids if self.inner is None else self.inner(input_ids)


def test_no_part_of_a_model_looks_for_padding_in_each_batch():
    model = Searching(nn.Sequential(Searching(), Searching()))

    prepare(model, make_config())

    assert model(torch.ones(1, 2)).sum() == 2


@pytest.mark.parametrize(
    ("wish", "memory_gib", "supported", "chunked"),
    [
        ("off", 1, True, False),
        ("on", 1000, True, True),
        ("auto", 1000, True, False),
        ("auto", 4, True, True),
        ("auto", 4, False, False),
        ("auto", None, True, False),
    ],
)
def test_the_loss_is_cut_into_chunks_where_all_logits_would_take_much_of_the_memory(
    wish, memory_gib, supported, chunked, monkeypatch
):
    memory = None if memory_gib is None else int(memory_gib * 2**30)
    monkeypatch.setattr(model_setup, "device_memory_bytes", lambda _: memory)
    monkeypatch.setattr(model_setup, "supports_chunked_loss", lambda _: supported)
    config = make_config(chunked_loss=wish)

    assert wants_chunked_loss(nn.Linear(1, 1), config, device=CPU, micro_batch=4) is chunked


def test_a_chunked_loss_that_the_model_does_not_allow_is_refused(monkeypatch):
    monkeypatch.setattr(model_setup, "supports_chunked_loss", lambda _: False)

    with pytest.raises(ConfigError, match="chunked_loss"):
        prepare(Recorder(), make_config(chunked_loss="on"))


def test_gradient_checkpointing_is_turned_on_without_reentrance():
    model = Recorder()

    prepare(model, make_config(gradient_checkpointing=True, chunked_loss="off"))

    assert model.asked == [{"gradient_checkpointing_kwargs": {"use_reentrant": False}}]


def test_gradient_checkpointing_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match="does not support it"):
        prepare(nn.Linear(1, 1), make_config(gradient_checkpointing=True, chunked_loss="off"))


@pytest.fixture
def liger(monkeypatch):
    """A stand-in for the extra, which needs a GPU; remembers what it was applied to."""
    applied = []
    patch = types.ModuleType("liger_kernel.transformers.monkey_patch")
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}
    patch._apply_liger_kernel_to_instance = lambda model, **settings: applied.append((model, settings))
    package = types.ModuleType("liger_kernel.transformers")
    package.monkey_patch = patch
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", patch)
    return applied


def of_type(model_type: str) -> Recorder:
    model = Recorder()
    model.config = types.SimpleNamespace(model_type=model_type)
    return model


def test_liger_kernels_are_applied_to_the_model_but_not_to_the_loss(liger):
    model = of_type("llama")

    use_liger_kernels(model, torch.device("cuda"))

    assert liger == [(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})]


def test_liger_kernels_that_cannot_be_had_are_refused(liger, monkeypatch):
    with pytest.raises(ConfigError, match=r"CUDA only.*on cpu"):
        prepare(of_type("llama"), make_config(liger_kernels=True))
    with pytest.raises(ConfigError, match="none for the model type 'gpt2'"):
        use_liger_kernels(of_type("gpt2"), torch.device("cuda"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(ConfigError, match=r"foundry-train\[liger\]"):
        use_liger_kernels(of_type("llama"), torch.device("cuda"))
    assert liger == []


def test_a_document_mask_is_refused_where_documents_would_leak(monkeypatch):
    monkeypatch.setattr(model_setup, "isolates_documents", lambda _: False)

    with pytest.raises(ConfigError, match="see other documents"):
        prepare(Recorder(), make_config(document_mask=True))


def test_compiling_keeps_the_model_itself_free_of_prefixes(monkeypatch):
    compiled = []
    monkeypatch.setattr(compilation, "require_cpp_compiler", lambda: None)
    monkeypatch.setattr(model_setup.TokenLoss, "compile", lambda self, **settings: compiled.append(settings))
    model = Recorder()

    prepared = prepare(model, make_config(compile="on", chunked_loss="off"))

    assert compiled == [{"dynamic": False}] and prepared.compiled
    assert prepared.model is model and set(model.state_dict()) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({"precision": "bf16"}, True),
        ({"precision": "fp32"}, False),
        ({"precision": "bf16", "compile": "on"}, True),
        ({"precision": "bf16", "gradient_checkpointing": True}, False),
    ],
)
def test_attention_of_the_cpu_is_taken_in_bf16_where_activations_are_not_made_again(monkeypatch, asked, taken):
    monkeypatch.setattr(compilation, "require_cpp_compiler", lambda: None)
    monkeypatch.setattr(model_setup.TokenLoss, "compile", lambda *_, **__: None)

    config = make_config(chunked_loss="off", **asked)
    prepared = prepare(Recorder(), config)

    assert prepared.loss_function.cpu_attention is taken
    assert ("cpu_attention" in fingerprint_of(prepared, config, World(0, 1, CPU))) is taken


def test_no_batch_is_searched_for_padding():
    model = Recorder()
    model.warn_if_padding_and_no_attention_mask = lambda *_: pytest.fail("searched")

    prepare(model, make_config(chunked_loss="off"))

    model.warn_if_padding_and_no_attention_mask(torch.zeros(1, 2), None)


def test_memory_of_a_device_is_known_here():
    assert model_setup.device_memory_bytes(CPU) > 2**28


@pytest.mark.parametrize("kernels", [types.SimpleNamespace(VERSION="3.6.0"), None])
def test_the_fingerprint_on_cuda_names_the_kernels_of_the_loss(monkeypatch, kernels):
    monkeypatch.setattr(build, "gpu_kernels", lambda device: kernels)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some Card")
    config = make_config()
    prepared = prepare(Recorder(), config)

    fingerprint = fingerprint_of(prepared, config, World(0, 1, torch.device("cuda:0")))

    assert fingerprint["loss_kernels"] == getattr(kernels, "VERSION", None)
    assert "loss_kernels" not in fingerprint_of(prepared, config, World(0, 1, CPU))
