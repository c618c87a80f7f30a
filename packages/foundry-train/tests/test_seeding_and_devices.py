"""Seeds, devices and peaks."""

import logging
import os
import random

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from foundry_config.errors import ConfigError
from foundry_train import process_setup
from foundry_train.devices import get_device, peak_flops
from foundry_train.distributed import World
from foundry_train.seeding import set_seed


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_set_seed_makes_results_reproducible():
    set_seed(7)
    first = draws()
    set_seed(7)
    second = draws()
    set_seed(8)

    assert first == second
    assert draws() != first


def test_set_seed_takes_seeds_beyond_32_bits():
    set_seed(2**63 - 1)
    large = draws()
    set_seed(2**32 - 1)

    assert draws() != large


def test_deterministic_seed_turns_on_deterministic_algorithms(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.delenv("FLASH_ATTENTION_DETERMINISTIC", raising=False)
    try:
        set_seed(1, deterministic=True)

        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"
        assert not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("wish", ["auto", "cuda", "cuda:0"])
def test_cuda_is_detected_and_its_card_has_a_number(wish, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    device = get_device(wish)

    assert device == torch.device("cuda:0")
    assert torch.cuda._utils._get_device_index(device) == 0  # what torch.cuda.set_device asks
    with pytest.raises(ConfigError, match="there are 1 CUDA devices"):
        get_device("cuda:3")


def test_a_card_that_was_made_the_current_one_stays_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)

    assert get_device("cuda") == torch.device("cuda:1")


def test_a_run_on_cuda_sets_up_memory_before_cuda_starts(monkeypatch, study_config):
    calls: list = []
    monkeypatch.setattr(process_setup, "setup_memory", lambda device: calls.append(("memory", device)))
    monkeypatch.setattr(process_setup, "set_seed", lambda *_, **settings: calls.append(("seed", settings)))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("card", device.index)))

    process_setup.set_up_process(study_config, World(device=torch.device("cuda:1")))

    assert calls == [("memory", torch.device("cuda:1")), ("card", 1), ("seed", {"deterministic": False})]


@pytest.mark.parametrize(
    ("device", "deterministic", "said"), [("cuda:0", False, True), ("cuda:0", True, False), ("cpu", False, False)]
)
def test_what_repeats_the_bits_of_a_run_on_cuda_is_said(caplog, study_config, device, deterministic, said):
    config = replace(study_config, training=replace(study_config.training, deterministic=deterministic))

    with caplog.at_level(logging.INFO):
        process_setup.say_where(config, World(device=torch.device(device)))

    assert ("training.deterministic: true" in caplog.text) is said


def test_device_falls_back_to_the_cpu_when_there_is_no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    assert get_device() == torch.device("cpu")


@pytest.mark.parametrize("wish", ["cuda", "mps"])
def test_a_device_asked_for_by_name_is_never_replaced_silently(wish, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    with pytest.raises(ConfigError, match=f"training.device: '{wish}' was asked for.* use auto or cpu"):
        get_device(wish)
    with pytest.raises(ConfigError, match=f"--device: '{wish}'"):
        get_device(wish, asked="--device")


@pytest.mark.parametrize("wish", ["gpu", "cuda:x", "meta", ""])
def test_a_device_that_does_not_exist_is_refused_by_name(wish):
    with pytest.raises(ConfigError, match="write auto, cpu, cuda, cuda:1 or mps"):
        get_device(wish)


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "fp16", 756.0),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156.0),
        ("Tesla T4", "fp32", 8.1),
        ("NVIDIA L40S", "bf16", 362.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40", "bf16", 181.0),
        ("NVIDIA GH200 480GB", "bf16", 989.4),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("NVIDIA B200", "fp32", 75.0),
        ("Tesla V100-PCIE-16GB", "fp16", 112.0),
        ("Tesla V100-SXM2-32GB", "fp16", 125.0),
        # names that only contain those of the table, and parts of a card
        ("NVIDIA RTX A4000", "bf16", None),
        ("NVIDIA RTX A3000 Laptop GPU", "bf16", None),
        ("NVIDIA T400 4GB", "fp32", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("A card of the year 2031", "bf16", None),
    ],
)
def test_peak_is_that_of_the_best_matching_name(name, precision, tflops, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)

    peak = peak_flops(torch.device("cuda"), precision)

    assert peak == (None if tflops is None else pytest.approx(tflops * 1e12))


def test_a_cpu_has_no_peak():
    assert peak_flops(torch.device("cpu"), "fp32") is None
