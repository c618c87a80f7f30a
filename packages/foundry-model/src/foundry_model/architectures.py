"""The named architectures: each function maps the common fields of `model` onto one family's own config.

    model: {architecture: llama, layers: 2, hidden_size: 64, ...}
      --llama(request)-->  Blueprint("llama", {num_hidden_layers: 2, hidden_size: 64, ...})

To add one: write its function here and its line in `ARCHITECTURES`; from outside the repository, name the function in
the config as `module:function`. Everything that changes the result is set, so no default of a library decides: dropout,
tying, epsilons, initial standard deviation, rotary base, biases, special ids, longest sequence.
"""

from typing import Any

from foundry_config.errors import ConfigError
from foundry_model.blueprints import Blueprint, ModelRequest, require, require_activation


def gpt2(request: ModelRequest) -> Blueprint:
    """GPT-2 (Radford et al. 2019): learned positions, layer norm before each branch, biases everywhere."""
    model = request.model
    lacks = ("embedding_size", "key_value_heads", "head_dim", "rope_theta", "state_size")
    require(request, "gpt2", lacks=lacks, bias=(None, True))
    fields = {
        "n_embd": model.hidden_size,
        "n_layer": model.layers,
        "n_head": model.attention_heads,
        "n_inner": model.intermediate_hidden_size,
        "n_positions": request.positions,
        "activation_function": request.activation("gpt2", gated=False),
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": model.attention_dropout,
        "layer_norm_epsilon": model.norm_epsilon,
        "initializer_range": model.init_std,
    }
    return Blueprint("gpt2", fields | _shared(request))


def gpt_neox(request: ModelRequest) -> Blueprint:
    """GPT-NeoX (Black et al. 2022), the family of Pythia: parallel branches, rotary on a quarter of each head.

    `bias` acts on attention only.
    """
    model = request.model
    require(request, "gpt_neox", lacks=("embedding_size", "key_value_heads", "head_dim", "state_size"))
    fields = {
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.attention_heads,
        "intermediate_size": model.intermediate_hidden_size,
        "max_position_embeddings": request.positions,
        "hidden_act": request.activation("gpt_neox", gated=False),
        "hidden_dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "attention_bias": model.bias is not False,
        "layer_norm_eps": model.norm_epsilon,
        "initializer_range": model.init_std,
    }
    rope = {"rope_type": "default", "rope_theta": model.rope_theta, "partial_rotary_factor": 0.25}
    return Blueprint("gpt_neox", fields | _shared(request), {"use_parallel_residual": True, "rope_parameters": rope})


def opt(request: ModelRequest) -> Blueprint:
    """OPT (Zhang et al. 2022): learned positions; the one family here whose embedding may be narrower."""
    model = request.model
    require(
        request,
        "opt",
        lacks=("key_value_heads", "head_dim", "rope_theta", "norm_epsilon", "state_size"),
    )
    fields = {
        "hidden_size": model.hidden_size,
        "word_embed_proj_dim": model.embedding_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.attention_heads,
        "ffn_dim": model.intermediate_hidden_size,
        "max_position_embeddings": request.positions,
        "activation_function": request.activation("opt", gated=False),
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "enable_bias": model.bias is not False,
        "init_std": model.init_std,
    }
    return Blueprint("opt", fields | _shared(request), {"do_layer_norm_before": True, "layerdrop": 0.0})


def llama(request: ModelRequest) -> Blueprint:
    """Llama (Touvron et al. 2023): rotary positions, RMS norm, gated feed-forward, no biases unless asked for."""
    require(request, "llama", lacks=("embedding_size", "dropout", "state_size"))
    bias = bool(request.model.bias)
    return _rotary_decoder("llama", request, {"attention_bias": bias, "mlp_bias": bias})


def mistral(request: ModelRequest) -> Blueprint:
    """Mistral (Jiang et al. 2023): Llama with attention to the last 4,096 tokens, and no biases at all."""
    require(request, "mistral", lacks=("embedding_size", "dropout", "state_size"), bias=(None, False))
    return _rotary_decoder("mistral", request, {}, {"sliding_window": 4096})


def qwen3(request: ModelRequest) -> Blueprint:
    """Qwen3 (Yang et al. 2025): Llama with normalized queries and keys; `bias` acts on attention only."""
    require(request, "qwen3", lacks=("embedding_size", "dropout", "state_size"))
    fields = {"attention_bias": bool(request.model.bias)}
    return _rotary_decoder("qwen3", request, fields, {"use_sliding_window": False})


def olmo2(request: ModelRequest) -> Blueprint:
    """OLMo 2 (OLMo team 2024): norms after each branch, normalized queries and keys; `bias` acts on attention only."""
    require(request, "olmo2", lacks=("embedding_size", "dropout", "head_dim", "state_size"))
    return _rotary_decoder("olmo2", request, {"attention_bias": bool(request.model.bias)})


def gemma3(request: ModelRequest) -> Blueprint:
    """Gemma 3, text only (Gemma team 2025): five sliding layers to one full, scaled embeddings, norms on both sides.

    `rope_theta` is the base of both kinds of layers; give `extra.rope_parameters` to separate them.
    """
    require(request, "gemma3", lacks=("embedding_size", "dropout", "state_size"))
    model = request.model
    blueprint = _rotary_decoder("gemma3_text", request, {"attention_bias": bool(model.bias)})
    fields = dict(blueprint.fields)
    fields["hidden_activation"] = fields.pop("hidden_act")
    rope = {"rope_type": "default", "rope_theta": model.rope_theta}
    published = {
        "query_pre_attn_scalar": request.head_dim,
        "sliding_window": 1024,
        "rope_parameters": {"full_attention": rope, "sliding_attention": dict(rope)},
    }
    return Blueprint("gemma3_text", fields, published)


def smollm3(request: ModelRequest) -> Blueprint:
    """SmolLM3 (Bakouch et al. 2025): Llama with no position embedding in every fourth layer."""
    require(request, "smollm3", lacks=("embedding_size", "dropout", "head_dim", "state_size"))
    bias = bool(request.model.bias)
    published = {"no_rope_layer_interval": 4, "use_sliding_window": False}
    return _rotary_decoder("smollm3", request, {"attention_bias": bias, "mlp_bias": bias}, published)


def mamba(request: ModelRequest) -> Blueprint:
    """Mamba (Gu and Dao 2023): a selective state space; `intermediate_hidden_size` is the width of the mixer."""
    require(request, "mamba", lacks=_NO_ATTENTION)
    return Blueprint("mamba", _state_space(request, "mamba", default_state=16))


def mamba2(request: ModelRequest) -> Blueprint:
    """Mamba 2 (Dao and Gu 2024): as Mamba, split into `attention_heads` heads (or into heads `head_dim` wide)."""
    model = request.model
    require(request, "mamba2", lacks=tuple(name for name in _NO_ATTENTION if name != "head_dim"))
    inner = model.intermediate_hidden_size
    head_dim = model.head_dim or inner // model.attention_heads
    if inner % head_dim:
        raise ConfigError(
            f"model.intermediate_hidden_size: mamba2 cannot split {inner} units into heads {head_dim} wide;"
            " change it, model.head_dim or model.attention_heads"
        )
    heads = {"head_dim": head_dim, "num_heads": inner // head_dim}
    groups = 8 if heads["num_heads"] % 8 == 0 else 1
    return Blueprint("mamba2", _state_space(request, "mamba2", default_state=128) | heads, {"n_groups": groups})


def rwkv(request: ModelRequest) -> Blueprint:
    """RWKV-4 (Peng et al. 2023): attention without a softmax, computed as a recurrence; squared ReLU."""
    model = request.model
    require(request, "rwkv", lacks=(*_NO_ATTENTION, "bias", "state_size", "init_std"))
    require_activation(request, "rwkv", "relu2")
    if model.layers < 2:
        raise ConfigError("model.layers: rwkv spreads its decays from the first to the last layer; use 2 or more")
    fields = {
        "hidden_size": model.hidden_size,
        "attention_hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "intermediate_size": model.intermediate_hidden_size,
        "context_length": request.positions,
        "layer_norm_epsilon": model.norm_epsilon,
    }
    # transformers halves weights in place for fp16 inference every `rescale_every` layers; 0 leaves them alone
    return Blueprint("rwkv", fields | _shared(request), {"rescale_every": 0})


def _shared(request: ModelRequest) -> dict[str, Any]:
    """Fields that every family spells the same way."""
    return {
        "vocab_size": request.vocab_size,
        "tie_word_embeddings": request.model.tie_embeddings,
        "pad_token_id": request.special.pad,
        "bos_token_id": request.special.bos,
        "eos_token_id": request.special.eos,
    }


def _rotary_decoder(
    model_type: str, request: ModelRequest, fields: dict[str, Any], published: dict[str, Any] | None = None
) -> Blueprint:
    """Blueprint of the families that share Llama's field names."""
    model = request.model
    common = {
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.attention_heads,
        "num_key_value_heads": request.key_value_heads,
        "intermediate_size": model.intermediate_hidden_size,
        "max_position_embeddings": request.positions,
        "hidden_act": request.activation(model_type, gated=True),
        "attention_dropout": model.attention_dropout,
        "rms_norm_eps": model.norm_epsilon,
        "initializer_range": model.init_std,
    }
    if model_type not in _NO_HEAD_DIM:
        common["head_dim"] = request.head_dim
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta}}
    return Blueprint(model_type, common | fields | _shared(request), rope | (published or {}))


def _state_space(request: ModelRequest, family: str, *, default_state: int) -> dict[str, Any]:
    """Fields of the state-space families, whose inner width is a whole multiple of the hidden size."""
    model = request.model
    inner, hidden = model.intermediate_hidden_size, model.hidden_size
    if inner % hidden:
        raise ConfigError(
            f"model.intermediate_hidden_size: {family} widens by a whole factor, and {inner} is no multiple of"
            f" hidden_size {hidden}; as published it is {2 * hidden}"
        )
    return {
        "hidden_size": hidden,
        "expand": inner // hidden,
        "num_hidden_layers": model.layers,
        "state_size": model.state_size or default_state,
        "hidden_act": require_activation(request, family, "silu"),
        "use_bias": bool(model.bias),
        "layer_norm_epsilon": model.norm_epsilon,
        "initializer_range": model.init_std,
        **_shared(request),
    }


_NO_ATTENTION = ("embedding_size", "dropout", "attention_dropout", "key_value_heads", "head_dim", "rope_theta")
_NO_HEAD_DIM = ("olmo2", "smollm3")

ARCHITECTURES = {
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "pythia": gpt_neox,
    "opt": opt,
    "llama": llama,
    "mistral": mistral,
    "qwen3": qwen3,
    "olmo2": olmo2,
    "gemma3": gemma3,
    "smollm3": smollm3,
    "mamba": mamba,
    "mamba2": mamba2,
    "rwkv": rwkv,
}
