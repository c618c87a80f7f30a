"""What a model costs to train: parameters and floating-point operations, known before it is built.

    flops per token = 6 * W + 12 * L * H * head_dim * T        (forward and backward)

W counts the entries of every matrix that a token is multiplied with (a tied output projection included, embeddings and
norms not): 2 operations forward, 4 backward. The second term is attention: scores and weighted sum, forward 4 * H *
head_dim * T a layer, twice that backward, over all T positions although half are masked. This is the count of
Chowdhery et al. 2022 (PaLM), appendix B, and of PyTorch's `FlopCounterMode`; what recomputation adds is not in it.
Recurrent scans (mamba, rwkv) are not products with a weight and are left out. Of the experts of a mixture those count
that a token is sent to, and parts that text never reaches (`reach`) do not count.
"""

import logging
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from foundry_config.errors import ConfigError
from foundry_config.names import is_reference
from foundry_config.schema import ExperimentConfig
from foundry_model.blueprints import SpecialIds
from foundry_model.factory import assemble_model
from foundry_model.model_request import is_as_published
from foundry_model.reach import out_of_reach

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters; tied ones count once."""

    total: int
    trainable: int
    non_embedding: int
    """Without the token and position embeddings and without the output projection."""


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters of a model, on any device (`meta` included)."""
    parameters = {id(p): p for p in model.parameters()}
    outside = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = output_projection(model)
    if head is not None:
        outside |= {id(p) for p in head.parameters()}
    return ParameterCounts(
        total=sum(p.numel() for p in parameters.values()),
        trainable=sum(p.numel() for p in parameters.values() if p.requires_grad),
        non_embedding=sum(p.numel() for key, p in parameters.items() if key not in outside),
    )


def flops_per_token(model: nn.Module | ExperimentConfig, sequence_length: int) -> float:
    """Return the operations that training on one token takes, forward and backward.

    Args:
        model: A model, or an experiment, whose model is then shaped without memory. Of a model on `meta` all parts are
            counted, since only a run tells which ones text reaches.
        sequence_length: T, the number of positions that attention looks at. [tokens]

    Raises:
        ConfigError: The experiment describes no model that can be built.
    """
    shaped: Any = _shaped(model) if isinstance(model, ExperimentConfig) else model
    left: frozenset[str] = getattr(shaped, "foundry_out_of_reach", frozenset())
    modules = [module for name, module in shaped.named_modules() if f"{name}.weight" not in left]
    weights: float = sum(module.weight.numel() for module in modules if _multiplies(module))
    weights += sum(p.numel() * share for p, share in _stacked_experts(shaped))
    return 6.0 * weights + 12.0 * _attention_width(shaped.config) * sequence_length


def _shaped(config: ExperimentConfig) -> Any:
    """The model of an experiment without memory, with what text does not reach in it."""
    model = assemble_model(config, device="meta")
    model.foundry_out_of_reach = out_of_reach_of(config)
    return model


def out_of_reach_of(
    config: ExperimentConfig, *, vocab_size: int | None = None, special_ids: SpecialIds | None = None
) -> frozenset[str]:
    """Name the parameters of an experiment's model that text never reaches, without taking memory for it.

    Raises:
        ConfigError: The experiment describes no model that can be built.
    """
    if is_as_published(config) or is_reference(config.model.architecture):
        return frozenset()  # named ones have no such parts, and what a function builds need not take fake tensors
    # they pull in the compiler's front end, which only estimates need
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            model = assemble_model(config, vocab_size=vocab_size, special_ids=special_ids)
            return out_of_reach(model, length=min(16, config.data.max_sequence_length), vocab_size=vocab_size)
    except ConfigError:
        raise
    except Exception as error:  # a family may look at numbers, which fake tensors do not have
        name, reason = config.model.architecture, f"{type(error).__name__}: {error}"
        logger.info("whether text reaches all parts of %r is found out when it trains (%s)", name, reason)
        return frozenset()


def known_flops_per_token(model: nn.Module | ExperimentConfig, sequence_length: int) -> float | None:
    """As `flops_per_token`; None for a user's own module, which says nothing about its layers."""
    shaped = _shaped(model) if isinstance(model, ExperimentConfig) else model
    known = hasattr(getattr(shaped, "config", None), "num_hidden_layers")
    return flops_per_token(shaped, sequence_length) if known else None


def output_projection(model: nn.Module) -> nn.Module | None:
    """Return the module that makes logits, if the model names it."""
    find: Any = getattr(model, "get_output_embeddings", None)
    return find() if find is not None else None


def _multiplies(module: nn.Module) -> bool:
    """Whether a module is a product with a matrix: a Linear, the Conv1D of GPT-2, a router of experts."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2 and not isinstance(module, nn.Embedding)


def _stacked_experts(model: Any) -> list[tuple[nn.Parameter, float]]:
    """The matrices of experts, one tensor for each kind [experts, out, in], and the share that a token is sent to."""
    chosen = _first_of(model.config, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k")
    experts = _first_of(model.config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    return [
        (p, min(1.0, chosen / len(p)) if chosen else 1.0)
        for name, p in model.named_parameters()
        if p.dim() == 3 and ("experts." in name or (chosen and len(p) == experts))
    ]


def _first_of(config: Any, *names: str) -> int | None:
    return next((value for name in names if (value := getattr(config, name, None))), None)


def _attention_width(config: Any) -> float:
    """Sum over the layers of heads times head width; 0 without attention. [units]"""
    layers = getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or ["attention"] * len(layers)
    return sum(_heads_width(layer) for layer, kind in zip(layers, kinds, strict=True) if _compares_positions(kind))


def _compares_positions(kind: str) -> bool:
    """Whether a layer of that kind looks from every position at others; a linear one carries a state along instead."""
    return ("attention" in kind and "linear" not in kind) or "hybrid" in kind


def _heads_width(config: Any) -> float:
    """Heads times head width of a layer; where keys and values differ in width, that is their mean. [units]"""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0
    latent = [getattr(config, name, None) or 0 for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")]
    if all(latent):  # multi-head latent attention, whose `head_dim` is that of the rotary part alone
        return heads * sum(latent) / 2
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
