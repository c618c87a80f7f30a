"""Build a causal language model from an experiment's config.

    ExperimentConfig --model_request--> ModelRequest --architecture--> Blueprint --family_config--> config --> model

Weights are fp32, drawn from PyTorch's global generator on the CPU and moved afterwards: a seed gives the same model on
every device.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from msgspec.structs import replace

from foundry_config.errors import ConfigError
from foundry_config.lookup import pick, users_code
from foundry_config.names import FAMILY
from foundry_config.schema import ExperimentConfig
from foundry_config.shapes import is_list
from foundry_model.activations import no_gate, wants_gate
from foundry_model.architectures import ARCHITECTURES
from foundry_model.attention import best_attention, resolve_attention
from foundry_model.blueprints import Blueprint, ModelRequest, SpecialIds
from foundry_model.common_fields import by_model_type, warn_of_own_activation
from foundry_model.context import note_context
from foundry_model.hf_families import family_config, model_class, open_values, told_extra
from foundry_model.honoured import check_causal, check_tying
from foundry_model.initialization import INITS
from foundry_model.model_request import is_as_published, model_request
from foundry_model.out_of_memory import is_out_of_memory
from foundry_model.placing import usable_device

logger = logging.getLogger(__name__)


def create_model(
    config: ExperimentConfig,
    *,
    vocab_size: int | None = None,
    special_ids: SpecialIds | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Build the model that `config` describes, with freshly drawn weights.

    Args:
        config: The experiment; reads `model`, `tokenizer.vocab_size`, `data.max_sequence_length`, `training.precision`.
        vocab_size: Entries of the tokenizer in use. Default: `tokenizer.vocab_size`. [tokens]
        special_ids: Ids of the tokenizer in use. Default: pad 0, unk 1, bos 2, eos 3, as foundry-data trains them.
        device: Where the model goes. Default: the CPU. `meta` gives shapes without memory.

    Returns:
        A `PreTrainedModel` in fp32 and training mode, or the `nn.Module` that a user's function built, in training
        mode; its output has `.logits` [B, T, V], and `model.foundry_attention` names the attention implementation in
        use. Families without a function of their own, a user's models, and named architectures that `model.extra`
        changes also have `model.foundry_out_of_reach`, the names of parameters that text never reaches.

    Raises:
        ConfigError: Anything in the config that the architecture cannot honour, by name; a family of transformers, a
            user's model or a named architecture with `model.extra` that looks at the tokens it is to predict, or cannot
            be run on token ids; a `device` that is not there.
    """
    if device is not None:
        usable_device(device)
    model = assemble_model(config, vocab_size=vocab_size, special_ids=special_ids, device=device)
    name = config.model.architecture
    if name.startswith(FAMILY):
        warn_of_own_activation(name.removeprefix(FAMILY), config.model.activation_function)
        if wants_gate(config.model.activation_function):
            _check_gate(config)
    if not (is_as_published(config) or next(model.parameters()).is_meta):
        request = model_request(config, vocab_size=vocab_size, special_ids=special_ids)
        with _naming_extra(config):
            left = check_causal(model, name, vocab_size=request.vocab_size, length=request.positions)
        model.foundry_out_of_reach = left
        if model.foundry_out_of_reach:
            logger.warning("%s", _told_out_of_reach(model, name))
    return model


def _check_gate(config: ExperimentConfig) -> None:
    """Make sure that a family of transformers has a gate, which no config of theirs tells.

    With twice as wide a feed-forward layer, as many weights come in that make its units as take them back to the hidden
    state, where it is plain; with a gate, twice as many make them, and a state space has others besides.

    Raises:
        ConfigError: It has none, and would compute with the bare activation.
    """
    model = config.model
    wide = replace(config, model=replace(model, intermediate_hidden_size=2 * model.intermediate_hidden_size))
    few, many = (_matrices(_shape_only(plan, model_class(plan))) for plan in map(model_plan, (config, wide)))
    grown = [0, 0]  # weights that came in with more rows, and with more columns
    for name, shape in few.items():
        for axis in (0, 1):
            grown[axis] += (many[name].numel() - shape.numel()) * (many[name][axis - 2] > shape[axis - 2])
    if grown[0] == grown[1] > 0:
        raise no_gate(model.activation_function, model.architecture)


def _matrices(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters() if parameter.dim() >= 2}


def _told_out_of_reach(model: Any, name: str) -> str:
    sizes = [p.numel() for path, p in model.named_parameters() if path in model.foundry_out_of_reach]
    return (
        f"model.architecture: text does not reach {sum(sizes):,} parameters of {name!r}, in {len(sizes)} tensors from"
        f" {min(model.foundry_out_of_reach)} on: they are built and saved, and never change"
    )


def assemble_model(
    config: ExperimentConfig,
    *,
    vocab_size: int | None = None,
    special_ids: SpecialIds | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Build as `create_model` does, without running the model once; see there."""
    plan = model_plan(config, vocab_size=vocab_size, special_ids=special_ids)
    if isinstance(plan, torch.nn.Module):
        note_context(plan, config.model.max_position_embeddings or config.data.max_sequence_length)
        return _adopt(plan, device)
    cls = model_class(plan)
    if device is not None and torch.device(device).type == "meta":
        with _naming_extra(config):
            shaped = _shape_only(plan, cls)
        return check_tying(shaped, wanted=config.model.tie_embeddings)
    attention = resolve_attention(config, device, model_class=cls)
    with _naming_extra(config):
        built = build(plan, attention)
    model = check_tying(built, wanted=config.model.tie_embeddings)
    INITS[config.model.init](model)
    model.foundry_attention = attention
    model.train()
    logger.debug("%s: %s parameters, attention %s", cls.__name__, f"{model.num_parameters():,}", attention)
    return model if device is None else model.to(device)


def model_plan(
    config: ExperimentConfig, *, vocab_size: int | None = None, special_ids: SpecialIds | None = None
) -> Any:
    """Return the config object of transformers for an experiment (or the module that a user's function built).

    Raises:
        ConfigError: Anything in the config that the architecture cannot honour, by name.
    """
    request = model_request(config, vocab_size=vocab_size, special_ids=special_ids)
    made = _architecture(config, request)
    if isinstance(made, torch.nn.Module):
        return made
    if not isinstance(made, Blueprint):
        raise ConfigError(
            f"model.architecture: {config.model.architecture!r} returned {type(made).__name__}; it must return a"
            " foundry_model.Blueprint, or a torch.nn.Module (a PreTrainedModel, for example) that gives .logits"
        )
    return family_config(made, config.model.extra)


def build(family_settings: Any, attention: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """Build the network of a family's config, on the device that is PyTorch's default.

    Raises:
        ConfigError: The family cannot be built from these values; its config class does not check them all.
    """
    from transformers import AutoModelForCausalLM  # costs seconds: only what builds a model pays for it

    try:
        return AutoModelForCausalLM.from_config(family_settings, dtype=dtype, attn_implementation=attention)
    except Exception as error:  # a network is built from values that nothing has checked, and raises what comes of it
        if is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0]  # PyTorch lists every signature of a function below it
        reason = f"{type(error).__name__}: {first_line}{open_values(family_settings)}"
        raise ConfigError(f"model: transformers cannot build this {family_settings.model_type!r}: {reason}") from error


def with_layers(config: ExperimentConfig, layers: int) -> ExperimentConfig:
    """Return a copy of the experiment whose model has that many layers."""
    per_layer = config.model.layers
    extra = {
        name: value
        for name, value in config.model.extra.items()
        if name not in _PER_LAYER and not (is_list(value) and len(value) == per_layer)
    }
    return replace(config, model=replace(config.model, layers=layers, extra=extra))


@contextmanager
def _naming_extra(config: ExperimentConfig) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error}{told_extra(config.model.extra)}") from error.__cause__


def _shape_only(plan: Any, cls: Any) -> Any:
    """Build a model that has shapes and takes no memory; attention does not matter to it."""
    attention = best_attention(cls)
    with torch.device("meta"):
        model = build(plan, attention)
    model.foundry_attention = attention
    return model.train()


def _architecture(config: ExperimentConfig, request: ModelRequest) -> Any:
    name = config.model.architecture
    if name.startswith(FAMILY):
        return by_model_type(name.removeprefix(FAMILY), request, config.model.extra)
    architecture = pick(name, ARCHITECTURES, kind="architecture")
    with users_code(name, kind="architecture", unless=is_out_of_memory):
        return architecture(request)


def _adopt(model: Any, device: torch.device | str | None) -> Any:
    """Take a module that a user's function built as it is.

    Raises:
        ConfigError: It has nothing to train.
    """
    if next(model.parameters(), None) is None:
        raise ConfigError(f"model.architecture: the {type(model).__name__} that was built has no parameters to train")
    config = getattr(model, "config", None)
    model.foundry_attention = getattr(config, "_attn_implementation", None) or "own"
    model.train()
    return model if device is None else model.to(device)


# Fields of `model.extra` that list something for every layer.
_PER_LAYER = ("layer_types", "no_rope_layers", "attention_types")
