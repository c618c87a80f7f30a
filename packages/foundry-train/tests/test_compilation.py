"""Whether to compile, and what is said where it does not work."""

import pytest
import torch

from foundry_config.errors import ConfigError
from foundry_train import compilation
from foundry_train.compilation import compile_failure, wants_compile


@pytest.mark.parametrize(
    ("wish", "device", "seconds", "compiled"),
    [
        ("off", "cuda", 1e6, False),
        ("on", "cpu", None, True),
        ("on", "cuda", None, True),
        ("auto", "cpu", 1e6, False),
        ("auto", "cuda", None, False),
        ("auto", "cuda", 100.0, False),
        ("auto", "cuda", 3600.0, True),
    ],
)
def test_it_is_decided_by_wish_device_and_what_it_repays(monkeypatch, wish, device, seconds, compiled):
    monkeypatch.setattr(compilation, "require_cpp_compiler", lambda: None)
    monkeypatch.setattr(compilation, "gpu_kernels", lambda _: "they work")

    assert wants_compile(wish, torch.device(device), seconds) is compiled


def test_auto_compiles_nothing_where_triton_does_not_work(monkeypatch):
    monkeypatch.setattr(compilation, "gpu_kernels", lambda _: None)

    assert not wants_compile("auto", torch.device("cuda"), 1e6)


@pytest.mark.slow
def test_no_cpp_compiler_is_said_before_anything_is_compiled():
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ConfigError, match=r"training.compile: PyTorch needs a C\+\+ compiler .* CXX, or set .* off"),
    ):
        wants_compile("on", torch.device("cpu"), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("CppCompileError: C++ compile error\n\nOutput:\nmain.cpp:2: fatal error: Python.h: No such file", "Python.h"),
        ("InvalidCxxCompiler: nothing works\n\nSet TORCHDYNAMO_VERBOSE=1", "InvalidCxxCompiler: nothing works;"),
        ("", "cannot compile this model here: TorchDynamoException; set training.compile: off"),
    ],
)
def test_what_the_compiler_could_not_do_is_an_error_of_the_config(error, said):
    from torch._dynamo.exc import TorchDynamoException

    assert said in str(compile_failure(TorchDynamoException(error)))
    assert "TORCHDYNAMO_VERBOSE" not in str(compile_failure(TorchDynamoException(error)))


def test_other_errors_are_not_the_compilers():
    assert compile_failure(RuntimeError("shapes do not fit")) is None
    assert compile_failure(ValueError("error: of something else")) is None
