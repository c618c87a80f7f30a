"""What a model costs to train: parameters and floating-point operations, known before it is built.

    flops per token = 6 * W + 12 * L * H * head_dim * T        (forward and backward)

W counts the entries of every matrix that a token is multiplied with (a tied output projection included, embeddings and
norms not): 2 operations forward, 4 backward. The second term is attention: scores and weighted sum, forward 4 * H *
head_dim * T a layer, twice that backward, over all T positions although half are masked. This is the count of
Chowdhery et al. 2022 (PaLM), appendix B, and of PyTorch's `FlopCounterMode`; what recomputation adds is not in it.
Recurrent scans (mamba, rwkv) are not products with a weight and are left out; for mixtures of experts every expert
counts, so the number is an upper bound there.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from foundry_config.schema import ExperimentConfig
from foundry_model.factory import create_model


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
        model: A model, or an experiment, whose model is then shaped without memory.
        sequence_length: T, the number of positions that attention looks at. [tokens]

    Raises:
        ConfigError: The experiment describes no model that can be built.
    """
    shaped: Any = create_model(model, device="meta") if isinstance(model, ExperimentConfig) else model
    weights = sum(module.weight.numel() for module in shaped.modules() if _multiplies(module))
    return 6.0 * weights + 12.0 * _attention_width(shaped.config) * sequence_length


def output_projection(model: nn.Module) -> nn.Module | None:
    """Return the module that makes logits, if the model names it."""
    find: Any = getattr(model, "get_output_embeddings", None)
    return find() if find is not None else None


def _multiplies(module: nn.Module) -> bool:
    """Whether a module is a product with a matrix: a Linear, or the Conv1D of GPT-2."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _attention_width(config: Any) -> int:
    """Sum over the layers of heads times head width; 0 without attention. [units]"""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kinds = getattr(config, "layer_types", None)
    layers = config.num_hidden_layers if kinds is None else sum("attention" in kind for kind in kinds)
    return layers * heads * head_dim
