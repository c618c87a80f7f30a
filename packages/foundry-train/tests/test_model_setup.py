"""What is decided about a model before it trains: chunks, compilation, checkpointing of activations, masks."""

import pytest
import torch
from torch import nn

from foundry_config import config_from_dict
from foundry_config.errors import ConfigError
from foundry_train import model_setup
from foundry_train.model_setup import prepare_for_training, wants_chunked_loss, wants_compile

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


@pytest.mark.parametrize(
    ("wish", "device", "seconds", "compiled"),
    [
        ("off", "cuda", 1e6, False),
        ("on", "cpu", None, True),
        ("auto", "cpu", 1e6, False),
        ("auto", "cuda", None, False),
        ("auto", "cuda", 100.0, False),
        ("auto", "cuda", 3600.0, True),
    ],
)
def test_compilation_is_decided_by_wish_device_and_what_it_repays(wish, device, seconds, compiled):
    assert wants_compile(wish, torch.device(device), seconds) is compiled


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


def test_a_document_mask_is_refused_where_documents_would_leak(monkeypatch):
    monkeypatch.setattr(model_setup, "isolates_documents", lambda _: False)

    with pytest.raises(ConfigError, match="see other documents"):
        prepare(Recorder(), make_config(document_mask=True))


def test_compiling_keeps_the_model_itself_free_of_prefixes(monkeypatch):
    compiled = []
    monkeypatch.setattr(model_setup.TokenLoss, "compile", lambda self, **settings: compiled.append(settings))
    model = Recorder()

    prepared = prepare(model, make_config(compile="on", chunked_loss="off"))

    assert compiled == [{"dynamic": False}] and prepared.compiled
    assert prepared.model is model and set(model.state_dict()) == {"head.weight", "head.bias"}


def test_memory_of_a_device_is_known_here():
    assert model_setup.device_memory_bytes(CPU) > 2**28
