"""Runs that are compiled for a CPU, for real."""

import shutil

import pytest
import torch

from foundry_config.errors import ConfigError
from foundry_model import TokenLoss
from foundry_train import compilation

pytestmark = pytest.mark.slow

MODULE = """
from types import SimpleNamespace

from torch import nn


class Compilable(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 64)
        self.norm = nn.LayerNorm(64)  # with it, the compiler's program adds up gradients of embeddings in any order
        self.head = nn.Linear(64, vocab_size)

    def forward(self, input_ids, **ignored):
        return SimpleNamespace(logits=self.head(self.norm(self.embedding(input_ids))))


def build(request):
    return Compilable(request.vocab_size)
"""


@pytest.fixture
def compilable(project, tmp_path, monkeypatch):
    """A project whose model can be compiled, on two threads."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    (tmp_path / "compilable_model.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield project
    torch.set_num_threads(threads)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(compilable, read, tmp_path, stop_at):
    changes = {"model": {"architecture": "compilable_model:build"}, "data": {"batch_size": 64}}
    configs = [compilable.config(tmp_path / name, changes=changes, compile="on") for name in ("whole", "stopped")]

    whole = compilable.train(configs[0])
    stopped = compilable.train(configs[1], hooks=[stop_at(5)])
    resumed = compilable.train(configs[1])

    assert stopped.exit_code == 143 and resumed.resumed_from == 5
    assert read.losses(resumed) == read.losses(whole) and read.weights(resumed) == read.weights(whole)


def test_what_the_compiler_cannot_do_is_an_error_of_the_config(compilable, tmp_path, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def fail(*_):
        raise TorchDynamoException("a compiler's reason")

    monkeypatch.setattr(compilation, "require_cpp_compiler", lambda: None)
    monkeypatch.setattr(TokenLoss, "compile", lambda self, **_: setattr(self, "forward", fail))

    with pytest.raises(ConfigError, match=r"training.compile: .* a compiler's reason"):
        compilable.train(compilable.config(tmp_path / "run", compile="on"))
