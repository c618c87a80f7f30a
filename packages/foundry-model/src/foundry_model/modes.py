"""Use a model for a moment without leaving a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def fixed_chance(model: nn.Module) -> Iterator[None]:
    """Inside, a model that draws random numbers draws the same each time; afterwards the generators are as before."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


@contextmanager
def without_compiler(model: nn.Module) -> Iterator[None]:
    """Inside, a compiled model is run as it was written: for inputs of many shapes, each of which would be compiled."""
    if not any(getattr(module, "_compiled_call_impl", None) for module in model.modules()):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has the mode it had before.

    FlashAttention, which computes in bf16 and fp16 alone, gives way to attention that takes fp32 too.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), _attention_of_any_precision(model):
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _attention_of_any_precision(model: nn.Module) -> Iterator[None]:
    configs: dict[int, tuple[Any, str]] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        attention = getattr(config, "_attn_implementation", None)
        if isinstance(attention, str) and attention.startswith("flash"):
            configs[id(config)] = config, attention
    try:
        for config, _ in configs.values():
            config._attn_implementation = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
        yield
    finally:
        for config, attention in configs.values():
            config._attn_implementation = attention
