"""Any causal language model of transformers: its classes, its config fields, and a guarded way to fill them.

transformers accepts unknown config keys in silence (`n_layers=3` builds a 32-layer Llama); `family_config` refuses them
with the nearest right name. `by_model_type` maps the common fields of `model` onto a family that has no function of its
own in `architectures.py`, by the names that families use for them.
"""

import dataclasses
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from foundry_config.errors import ConfigError
from foundry_config.lookup import did_you_mean
from foundry_model.activations import canonical_activation
from foundry_model.blueprints import Blueprint, ModelRequest


def config_class(model_type: str) -> Any:
    """Return the config class of a causal-LM family.

    Raises:
        ConfigError: transformers knows no causal language model of that type.
    """
    with _uncollected():
        # transformers costs seconds, so only what builds or reads a model pays for it
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type in CONFIG_MAPPING:
            return CONFIG_MAPPING[model_type]
    known = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    raise ConfigError(
        f"model.architecture: transformers has no causal language model of type {model_type!r}."
        f"{did_you_mean(model_type, known)} {len(known)} types are known, among them {', '.join(sorted(known)[:12])}"
    )


def model_class(config: Any) -> Any:
    """Return the causal-LM class that goes with a family's config object."""
    with _uncollected():
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def family_config(blueprint: Blueprint, extra: Mapping[str, Any]) -> Any:
    """Build the family's own config from a blueprint and `model.extra`.

    Raises:
        ConfigError: `extra` has an unknown key, or one that a common field already decides; or the family refuses a
            value (a hidden size that the heads do not divide, a wrong type).
    """
    cls = config_class(blueprint.model_type)
    settings = dict(blueprint.published)
    for name, value in _checked_extra(cls, blueprint, extra).items():
        settings[name] = value
    return _construct(cls, blueprint.model_type, {**settings, **blueprint.fields})


def by_model_type(model_type: str, request: ModelRequest, extra: Mapping[str, Any]) -> Blueprint:
    """Map the common fields onto a family by the names that its config has for them.

    A common field that the family's config does not know must be neutral, or be given its own name in `extra`.

    Raises:
        ConfigError: The type is unknown, or a field cannot be placed.
    """
    cls = config_class(model_type)
    names = known_fields(cls) | _SET_BY_US
    given = {field_name(cls, key) for key in extra}
    fields: dict[str, Any] = {}
    problems: list[str] = []
    for common, (value, neutral) in _values(model_type, request).items():
        targets = list(dict.fromkeys(field_name(cls, name) for name in _NAMES[common] if name in names))
        if targets and not (common in _LEFT_ALONE and value == neutral):
            fields |= {target: value for target in targets if target not in given}
        elif value != neutral:
            problems.append(
                f"model.{common}: the config of {model_type!r} has none of {', '.join(_NAMES[common])} for {value!r};"
                f" give its own field for this in model.extra, or set {common} to {neutral!r}"
            )
    if problems:
        raise ConfigError("\n".join(problems))
    return Blueprint(model_type, fields)


def known_fields(cls: Any) -> set[str]:
    """Names that a family's config understands, aliases included, without those that `create_model` sets itself."""
    aliases = _aliases(cls)
    own = {f.name for f in dataclasses.fields(cls)} | set(aliases) | set(aliases.values())
    return (own | {"rope_theta", "rope_scaling"}) - _NOT_THE_MODEL - _SET_BY_US


def field_name(cls: Any, name: str) -> str:
    """Return the field of a config class that a name or alias stands for.

    Most aliases lead from a common name to a field (`num_hidden_layers` to `n_layer`); a few lead from the field to the
    attribute that it is kept and saved in (`num_experts` of qwen3_moe to `num_local_experts`).
    """
    aliases, fields = _aliases(cls), {f.name for f in dataclasses.fields(cls)}
    if aliases.get(name) in fields:
        return aliases[name]
    if name in fields:
        return name
    return next((alias for alias, kept in aliases.items() if kept == name and alias in fields), name)


def _aliases(cls: Any) -> dict[str, str]:
    return getattr(cls, "attribute_map", None) or {}


def _checked_extra(cls: Any, blueprint: Blueprint, extra: Mapping[str, Any]) -> dict[str, Any]:
    known = known_fields(cls)
    problems = []
    for name in extra:
        if name not in known:
            hint = did_you_mean(name, known)
            problems.append(f"model.extra.{name}: the config of {blueprint.model_type!r} has no such field.{hint}")
        elif field_name(cls, name) in blueprint.fields:
            problems.append(f"model.extra.{name}: already decided by the common fields of `model`; set those instead")
    if problems:
        raise ConfigError("\n".join(problems))
    return {field_name(cls, name): value for name, value in extra.items()}


def _construct(cls: Any, model_type: str, settings: dict[str, Any]) -> Any:
    from huggingface_hub.errors import StrictDataclassError

    try:
        return cls(**settings)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        reason = str(error.__cause__ or error).strip()
        raise ConfigError(f"model: transformers refuses this {model_type!r}: {reason}") from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hold the garbage collector off: imports make millions of lasting objects, and scanning them costs a fifth."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _values(model_type: str, request: ModelRequest) -> dict[str, tuple[Any, Any]]:
    """Common field -> (value, the value that asks for nothing)."""
    model, special = request.model, request.special
    must = object()  # equals no value: this field has to find its place
    activation = canonical_activation(model.activation_function, gated=True, family=model_type)
    rope = {"rope_type": "default", "rope_theta": model.rope_theta}
    return {
        "layers": (model.layers, must),
        "hidden_size": (model.hidden_size, must),
        "embedding_size": (model.embedding_size, model.hidden_size),
        "intermediate_hidden_size": (model.intermediate_hidden_size, 4 * model.hidden_size),
        "attention_heads": (model.attention_heads, model.attention_heads),
        "key_value_heads": (request.key_value_heads, model.attention_heads),
        "head_dim": (request.head_dim, model.hidden_size // model.attention_heads),
        "activation_function": (activation, activation),
        "dropout": (model.dropout, 0.0),
        "attention_dropout": (model.attention_dropout, 0.0),
        "norm_epsilon": (model.norm_epsilon, 1e-5),
        "init_std": (model.init_std, 0.02),
        "state_size": (model.state_size, None),
        "bias": (model.bias, None),
        "tie_embeddings": (model.tie_embeddings, must),
        "rope_theta": (rope, rope | {"rope_theta": 10000.0}),
        "max_position_embeddings": (request.positions, request.positions),
        "vocab_size": (request.vocab_size, must),
        "pad_token_id": (special.pad, special.pad),
        "bos_token_id": (special.bos, special.bos),
        "eos_token_id": (special.eos, special.eos),
    }


# Common field -> the names that families give it.
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "d_model", "n_embd"),
    "embedding_size": ("embedding_size", "word_embed_proj_dim"),
    "intermediate_hidden_size": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff"),
    "attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim",),
    "activation_function": ("hidden_act", "hidden_activation", "activation_function", "activation"),
    "dropout": (
        *("hidden_dropout", "hidden_dropout_prob", "resid_pdrop", "embd_pdrop", "resid_dropout"),
        *("embed_dropout", "embedding_dropout", "dropout"),
    ),
    "attention_dropout": (
        *("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "attention_dropout_prob"),
    ),
    "norm_epsilon": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "init_std": ("initializer_range", "init_std", "initializer_factor"),
    "state_size": ("state_size", "mamba_d_state", "ssm_state_size"),
    "bias": ("attention_bias", "mlp_bias", "use_bias", "enable_bias", "bias"),
    "tie_embeddings": ("tie_word_embeddings",),
    "rope_theta": ("rope_parameters",),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "context_length"),
    "vocab_size": ("vocab_size",),
    "pad_token_id": ("pad_token_id",),
    "bos_token_id": ("bos_token_id",),
    "eos_token_id": ("eos_token_id",),
}
# Without a wish the family keeps what it was published with.
_LEFT_ALONE = ("state_size", "bias")
# Fields of every config that say nothing about the network.
_NOT_THE_MODEL = {
    "transformers_version",
    "architectures",
    "output_hidden_states",
    "output_attentions",
    "return_dict",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
    "is_encoder_decoder",
    "use_cache",
}
# Fields that the tokenizer and `model.tie_embeddings` decide.
_SET_BY_US = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"}
