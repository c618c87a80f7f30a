"""Which attention implementation a model uses, and why a wish cannot be met.

    auto              -> sdpa where the family has it, else eager
    sdpa, eager, flex -> as asked; ConfigError where the family does not have it
    flash_attention_N -> needs CUDA, its package, bf16 or fp16, and no document_mask; ConfigError naming the obstacle
    use_flash_attention: true -> flash_attention_2 if possible, else a warning and `auto`

What was taken is logged and stands on the model as `model.foundry_attention`.
"""

import importlib.util
import logging
from typing import Any

import torch

from foundry_config.errors import ConfigError
from foundry_config.schema import ExperimentConfig

logger = logging.getLogger(__name__)


def resolve_attention(config: ExperimentConfig, device: torch.device | str | None, *, model_class: Any) -> str:
    """Return the attention implementation to build with, as transformers names it.

    Args:
        config: Reads `model.attention`, `model.use_flash_attention`, `training.precision`.
        device: Where the model will run; None means the CPU.
        model_class: Class of transformers that will be built.

    Raises:
        ConfigError: The implementation asked for cannot be used; the message says why.
    """
    wish = config.model.attention
    if wish == "auto" and config.model.use_flash_attention:
        return _flash_or_fallback(config, device, model_class)
    if wish == "auto":
        return best_attention(model_class)
    obstacle = _obstacle(wish, config, device, model_class)
    if obstacle:
        raise ConfigError(
            f"model.attention: {wish!r} cannot be used: {obstacle}; `auto` would take {best_attention(model_class)!r}"
        )
    return _NAMES.get(wish, wish)


def _flash_or_fallback(config: ExperimentConfig, device: torch.device | str | None, model_class: Any) -> str:
    obstacle = _obstacle("flash_attention_2", config, device, model_class)
    if not obstacle:
        return "flash_attention_2"
    best = best_attention(model_class)
    logger.warning("model.use_flash_attention: FlashAttention 2 cannot be used: %s; using %r instead", obstacle, best)
    return best


def best_attention(model_class: Any) -> str:
    """Return what `auto` takes for a class of transformers."""
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"


def _obstacle(wish: str, config: ExperimentConfig, device: torch.device | str | None, model_class: Any) -> str | None:
    """Say what stands in the way of an implementation, or None."""
    supported = wish == "eager" or any(getattr(model_class, name, False) for name in _SUPPORT_FLAGS[wish])
    if not supported:
        return f"{model_class.__name__} of transformers does not support it"
    if not wish.startswith("flash"):
        return None
    kind = torch.device(device or "cpu").type
    if kind != "cuda":
        return f"it needs a CUDA device, and the model is on {kind!r}"
    package = _PACKAGES[wish]
    if importlib.util.find_spec(package) is None:
        return f"the package {package!r} is not installed"
    if config.training.precision not in ("bf16", "fp16"):
        return f"it computes in bf16 or fp16 only, and training.precision is {config.training.precision!r}"
    if config.data.document_mask:  # transformers looks for packed documents in a batch of one row only
        return "it does not keep the documents of a row apart, which data.document_mask asks for"
    return None


_NAMES = {"flex": "flex_attention"}
FLASH_DISTRIBUTIONS = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_3"}
_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_SUPPORT_FLAGS = {
    "sdpa": ("_supports_sdpa",),
    "flex": ("_supports_flex_attn",),
    "flash_attention_2": ("_supports_flash_attn", "_supports_flash_attn_2"),
    "flash_attention_3": ("_supports_flash_attn", "_supports_flash_attn_3"),
    "eager": (),
}
