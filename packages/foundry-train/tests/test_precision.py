"""Arithmetic of a run, on the CPU; the fp16 path is real here too."""

import logging

import pytest
import torch

from foundry_config.errors import ConfigError
from foundry_train.precision import make_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _restore_matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_matrix_products_run_in_the_precision_that_was_asked_for(name, dtype):
    precision = make_precision(name, CPU)

    with precision.autocast():
        product = torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2))

    assert product.dtype == dtype


def test_only_fp16_scales_its_loss():
    scalers = {name: make_precision(name, CPU).scaler for name in ("fp32", "tf32", "bf16", "fp16")}

    assert {name for name, scaler in scalers.items() if scaler is not None} == {"fp16"}
    assert scalers["fp16"] is not None and scalers["fp16"].is_enabled()


def test_tf32_on_a_cpu_says_what_it_computes_in_instead(caplog):
    with caplog.at_level(logging.WARNING):
        make_precision("tf32", CPU)

    assert "computes in fp32" in caplog.text


def test_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="fp32, tf32, bf16, fp16"):
        make_precision("fp8", CPU)


def test_bf16_is_refused_on_a_cuda_device_without_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old Card")

    with pytest.raises(ConfigError, match=r"Old Card; use fp16 or fp32"):
        make_precision("bf16", torch.device("cuda"))
