"""Any causal language model of transformers: its classes, its config fields, and a guarded way to fill them.

transformers accepts unknown config keys in silence (`n_layers=3` builds a 32-layer Llama); `family_config` refuses them
with the nearest right name, and those that something else decides with what that is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from foundry_config.collecting import uncollected
from foundry_config.errors import ConfigError
from foundry_config.lookup import did_you_mean
from foundry_model.blueprints import Blueprint
from foundry_model.impossible import impossible_values
from foundry_model.rope import merged_rope, unread_settings


def config_class(model_type: str) -> Any:
    """Return the config class of a causal-LM family.

    Raises:
        ConfigError: transformers knows no causal language model of that type.
    """
    with uncollected():
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
    with uncollected():
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def family_config(blueprint: Blueprint, extra: Mapping[str, Any]) -> Any:
    """Build the family's own config from a blueprint and `model.extra`.

    Raises:
        ConfigError: `extra` has an unknown key, one that something else already decides, or a rotary setting that has
            no effect; or the family refuses a value (a hidden size that the heads do not divide, a wrong type); or no
            family can have it.
    """
    cls = config_class(blueprint.model_type)
    settings = dict(blueprint.published)
    for name, value in _checked_extra(cls, blueprint, extra).items():
        if name in ("rope_parameters", "rope_scaling"):
            base = settings.get("rope_parameters") or {}
            settings["rope_parameters"] = merged_rope(base, value, family=blueprint.model_type)
        else:
            settings[name] = value
    settings |= blueprint.fields
    try:
        if problems := impossible_values(settings):
            raise ConfigError(f"model: {blueprint.model_type!r} cannot have {', '.join(problems)}")
        config = _construct(cls, blueprint.model_type, settings)
    except ConfigError as error:
        raise ConfigError(f"{error}{told_extra(extra)}") from error.__cause__
    given = extra.get("rope_parameters", extra.get("rope_scaling"))
    if given and (problems := list(unread_settings(config, given))):
        raise ConfigError("\n".join(problems))
    return config


def told_extra(extra: Mapping[str, Any]) -> str:
    """Name the fields of `model.extra`, which are the first to look at where a family cannot be built or run."""
    return f"; model.extra sets {', '.join(extra)}" if extra else ""


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


def open_values(config: Any) -> str:
    """Name the fields that a family's config leaves without a value, for a network that cannot do without."""
    names = {f.name for f in dataclasses.fields(config)} - _NOT_THE_MODEL - _SET_BY_US
    found = sorted(name for name in names if getattr(config, name, "") is None)
    return f"; its config leaves open, for model.extra: {', '.join(found)}" if found else ""


def _aliases(cls: Any) -> dict[str, str]:
    return getattr(cls, "attribute_map", None) or {}


def _checked_extra(cls: Any, blueprint: Blueprint, extra: Mapping[str, Any]) -> dict[str, Any]:
    known = known_fields(cls) - {"rope_theta"}
    if "rope_parameters" not in known:
        known -= {"rope_scaling"}
    problems = []
    for name in extra:
        if name not in known and name in DECIDED_ELSEWHERE:
            problems.append(f"model.extra.{name}: not a matter of extra; {DECIDED_ELSEWHERE[name]}")
        elif name not in known:
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
    except Exception as error:  # families compute with their values before they check them, and raise what comes of it
        cause = error.__cause__ or error
        worded = isinstance(cause, StrictDataclassError | ValueError | TypeError)
        reason = str(cause).strip() if worded else f"{type(cause).__name__}: {cause}"
        raise ConfigError(f"model: transformers refuses this {model_type!r}: {reason}") from error


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
# Fields that something else than `extra` decides, and what.
DECIDED_ELSEWHERE = {
    "vocab_size": "the tokenizer decides it",
    "pad_token_id": "the tokenizer decides it",
    "bos_token_id": "the tokenizer decides it",
    "eos_token_id": "the tokenizer decides it",
    "tie_word_embeddings": "set model.tie_embeddings",
    "rope_theta": "set model.rope_theta",
    "partial_rotary_factor": "give it in model.extra.rope_parameters",
    "dtype": "set training.precision",
    "torch_dtype": "set training.precision",
    "attn_implementation": "set model.attention",
    "_attn_implementation": "set model.attention",
    "use_cache": "training never uses a cache, and generation always does",
}
_SET_BY_US = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"}
