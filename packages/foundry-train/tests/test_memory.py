"""Memory settings, numbers and errors."""

import logging
import mmap
import os

import pytest
import torch

from foundry_train import memory
from foundry_train.memory import MemoryUse, memory_use, setup_memory, warn_if_fragmented


def test_memory_management_on_cuda_sets_growing_segments_and_resets_the_peak(monkeypatch):
    calls = []
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setattr(torch.cuda, "init", lambda: calls.append(os.environ.get("PYTORCH_ALLOC_CONF")))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)

    setup_memory(torch.device("cuda:0"))

    assert os.environ.pop("PYTORCH_ALLOC_CONF") == "expandable_segments:True"
    assert calls == ["expandable_segments:True", torch.device("cuda:0")]  # CUDA reads the variable when it starts


def test_allocator_settings_of_the_user_are_left_alone(monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)

    setup_memory(torch.device("cuda:0"))

    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_cpu_allocator_is_left_alone_when_the_user_has_set_it(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")

    assert memory.tune_cpu_allocator() is False


def test_cpu_allocator_is_left_alone_where_there_is_no_glibc(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("musl", "1.2"))

    assert memory.tune_cpu_allocator() is False


def test_memory_use_on_a_cpu_is_the_resident_size():
    with mmap.mmap(-1, 64 * 2**20) as pages:  # the allocator would give out pages that are resident already
        before = memory_use(torch.device("cpu"))
        pages.write(b"x" * len(pages))
        after = memory_use(torch.device("cpu"))

    assert 48 * 2**20 < after.used - before.used < 160 * 2**20
    assert after.peak >= after.used


def test_memory_use_on_cuda_reads_the_counters_of_the_allocator(monkeypatch):
    counters = {
        "allocated_bytes.all.current": 60,
        "allocated_bytes.all.peak": 80,
        "reserved_bytes.all.current": 100,
    }
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _: counters)

    use = memory_use(torch.device("cuda"))

    assert use == MemoryUse(used=60, peak=80, reserved=100)
    assert use.fragmentation == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("used", "peak", "reserved", "warned"),
    [(1, 4, 8, True), (7, 7, 8, False), (1, 7, 8, False), (0.01, 0.05, 0.1, False), (1, 8, 4, False)],
    ids=["torn", "full", "between two updates", "small", "given back"],
)
def test_memory_monitoring_detects_fragmentation(used, peak, reserved, warned, caplog):
    use = MemoryUse(*(int(gib * 2**30) for gib in (used, peak, reserved)))

    with caplog.at_level(logging.WARNING):
        assert warn_if_fragmented(use) is warned

    assert ("fragmented" in caplog.text) is warned
