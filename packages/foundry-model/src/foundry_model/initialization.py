"""How the weights of a new model are drawn.

    hf           as transformers does for the family: N(0, s^2) with s = `init_std` (GPT-2 already scales its residual
                 projections there)
    gpt2-scaled  as hf, and every projection that ends a residual branch has s / sqrt(R L), with R branches a layer
                 (Radford et al. 2019, section 2.3: "scale the weights of residual layers at initialization by a factor
                 of 1/sqrt(N) where N is the number of residual layers"; N = R L, R = 2 for attention and feed-forward)
    mup-like     as gpt2-scaled, and every matrix inside the blocks has s * sqrt(256 / fan_in) in place of s (Yang et
                 al. 2022, "Tensor Programs V", table 8: the variance of hidden weights falls with 1 / fan_in;
                 embeddings keep a variance that does not depend on the width). The learning rates and the output
                 multiplier of full muP are not part of it, hence the name.

Only the standard deviations change: the draws are those of transformers, multiplied, so a seed gives the same
directions in all three.
"""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from foundry_config.errors import ConfigError

REFERENCE_WIDTH = 256
"""Width at which `mup-like` equals `gpt2-scaled`. [units]"""


def as_transformers_does(model: Any) -> None:
    """Leave the weights as transformers drew them."""


def gpt2_scaled(model: Any) -> None:
    """Give every projection that ends a residual branch the standard deviation `init_std / sqrt(R L)`."""
    layers = model.config.num_hidden_layers
    projections = _residual_projections(model)
    branches = len(projections) / layers
    for _, weight in projections:
        _set_std(weight, _std(model) / math.sqrt(branches * layers))


def mup_like(model: Any) -> None:
    """Scale the matrices of the blocks with `1 / sqrt(fan_in)`, residual projections with `1 / sqrt(R L)` as well."""
    residual = {id(weight): None for _, weight in _residual_projections(model)}
    layers = model.config.num_hidden_layers
    depth = math.sqrt(len(residual))
    if not layers:
        return
    for fan_in, weight in _block_matrices(model):
        std = _std(model) * math.sqrt(REFERENCE_WIDTH / fan_in)
        _set_std(weight, std / depth if id(weight) in residual else std)


def _std(model: Any) -> float:
    config = model.config
    return getattr(config, "initializer_range", None) or getattr(config, "init_std", None) or 0.02


@torch.no_grad()
def _set_std(weight: Tensor, std: float) -> None:
    """Multiply a drawn weight so that the distribution it came from has this standard deviation."""
    drawn = weight.float().square().mean().sqrt()
    weight.mul_(torch.where(drawn > 0, std / drawn, 1.0))  # no branch: weights without memory have no values to ask for


def _residual_projections(model: Any) -> list[tuple[str, Tensor]]:
    """Weights of the projections that end a residual branch, by the names that families give them.

    Raises:
        ConfigError: They are not all known: none, not the same number in every layer, one in a layer with attention
            and a feed-forward network, or experts.
    """
    found = [
        (name, module.weight)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in _RESIDUAL_NAMES or name.endswith(_RESIDUAL_SUFFIXES)
        if getattr(module, "weight", None) is not None and module.weight.dim() == 2
    ]
    branches = len(found) / model.config.num_hidden_layers
    expected = (2,) if getattr(model.config, "num_attention_heads", None) else (1, 2)
    experts = any("expert" in name for name, _ in model.named_parameters())
    if not found or branches not in expected or experts:
        known = "no residual projections are" if not found else "not all residual projections are"
        raise ConfigError(
            f"model.init: {known} known in {type(model).__name__}, so they cannot be scaled; use `init: hf`"
        )
    return found


def _block_matrices(model: Any) -> list[tuple[int, Tensor]]:
    """(fan_in, weight) of every matrix inside the blocks, which are numbered: `layers.3.mlp.fc1`, not `lm_head`."""
    matrices = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not re.search(r"\.\d+\.", name) or isinstance(module, nn.Embedding) or weight is None or weight.dim() != 2:
            continue
        # the Conv1D of GPT-2 stores [in, out], a Linear [out, in]
        fan_in = weight.shape[0] if type(module).__name__ == "Conv1D" else weight.shape[1]
        matrices.append((fan_in, weight))
    return matrices


_RESIDUAL_NAMES = {"c_proj", "o_proj", "down_proj", "out_proj", "fc2", "fc_out", "dense_4h_to_h", "wo", "w2"}
_RESIDUAL_SUFFIXES = ("attention.dense", "attn.dense", "attention.output", "feed_forward.value")

INITS = {"hf": as_transformers_does, "gpt2-scaled": gpt2_scaled, "mup-like": mup_like}
