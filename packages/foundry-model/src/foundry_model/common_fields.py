"""Map the common fields of `model` onto a family that has no function of its own in `architectures.py`.

    {layers: 2, dropout: 0.1, ...}  --by the names that families use-->  {n_layer: 2, resid_pdrop: 0.1, ...}

A field that the family's config has no name for is refused unless it asks for nothing, and so is a field of `extra`
that says something else than the common field it stands for. What transformers would leave to a default of its own (a
second kind of dropout, shared key/value heads, attention to the future) is set to what the common fields say.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from foundry_config.errors import ConfigError
from foundry_model.activations import canonical_activation
from foundry_model.blueprints import Blueprint, ModelRequest, heads_problems
from foundry_model.field_names import FIELD_NAMES, SILENT_DROPOUT
from foundry_model.hf_families import DECIDED_ELSEWHERE, config_class, field_name, known_fields
from foundry_model.rope import default_rope

logger = logging.getLogger(__name__)


def by_model_type(model_type: str, request: ModelRequest, extra: Mapping[str, Any]) -> Blueprint:
    """Describe a model of any family by the names that its config has for the common fields.

    Raises:
        ConfigError: The type is unknown, a field cannot be placed, or `extra` contradicts one.
    """
    cls = config_class(model_type)
    names = known_fields(cls) | DECIDED_ELSEWHERE.keys()
    given = {field_name(cls, key): value for key, value in extra.items()}
    fields: dict[str, Any] = {}
    problems = heads_problems(request) if _targets(cls, names, "attention_heads") else []
    for common, wish in _wishes(model_type, request).items():
        targets = _targets(cls, names, common)
        if common == "intermediate_hidden_size" and not targets and "expand" in names:
            targets, wish = ["expand"], _expansion(model_type, request)
        if common == "key_value_heads" and "multi_query" in names:
            wish = _Wish(wish.value, wish.value)  # `_unspoken` sees to it
        problems += _problems(cls, model_type, common, wish, targets, given)
        if targets and not (common in _LEFT_ALONE and wish.asks_for_nothing):
            fields |= {target: wish.value for target in targets if target not in given}
    published, unfit = _unspoken(cls, model_type, names, request)
    problems += unfit
    if problems:
        raise ConfigError("\n".join(problems))
    return Blueprint(model_type, fields, published)


def warn_of_own_activation(model_type: str, wanted: str) -> None:
    """Say so if the family computes with an activation of its own, whatever is asked for."""
    cls = config_class(model_type)
    if not _targets(cls, known_fields(cls), "activation_function"):
        logger.warning(
            "model.activation_function: the config of %r has no field for it, so %r has no effect; the family computes"
            " with an activation of its own",
            *(model_type, wanted),
        )


class _Wish(NamedTuple):
    value: Any
    """What the family's field is to hold."""
    neutral: Any
    """The value that asks for nothing; `_REQUIRED` where there is none."""

    @property
    def asks_for_nothing(self) -> bool:
        return self.value == self.neutral


def _targets(cls: Any, names: set[str], common: str) -> list[str]:
    """Fields of the family that a common field decides."""
    found = [field_name(cls, name) for name in FIELD_NAMES[common] if name in names]
    return list(dict.fromkeys(found))


def _problems(
    cls: Any, model_type: str, common: str, wish: _Wish, targets: list[str], given: Mapping[str, Any]
) -> Iterator[str]:
    if not targets and wish.neutral is _REQUIRED:
        yield f"model.{common}: the config of {model_type!r} has none of {_listed(common)}{_way_out(cls)}"
    elif not targets and not wish.asks_for_nothing:
        yield (
            f"model.{common}: the config of {model_type!r} has none of {_listed(common)} for {wish.value!r}; give its"
            f" own field for this in model.extra, or set {common} to {wish.neutral!r}"
        )
    contradicts = bool(targets) and all(name in given and given[name] != wish.value for name in targets)
    if contradicts and targets[0] not in DECIDED_ELSEWHERE and not (common in _LEFT_ALONE and wish.asks_for_nothing):
        yield (
            f"model.extra: {targets[0]} {given[targets[0]]!r} contradicts model.{common} {wish.value!r}; set"
            f" model.{common} alone"
        )


def _listed(common: str) -> str:
    return ", ".join(FIELD_NAMES[common])


def _way_out(cls: Any) -> str:
    """Name the network inside, where a config only wraps several."""
    inner = (getattr(cls, "sub_configs", None) or {}).get("text_config")
    own = getattr(inner, "model_type", "")
    return f"; it joins several networks, use 'hf:{own}' for the one that reads text" if own else ""


def _expansion(model_type: str, request: ModelRequest) -> _Wish:
    """State-space families give their inner width as a multiple of the hidden size."""
    inner, hidden = request.model.intermediate_hidden_size, request.model.hidden_size
    if inner % hidden:
        raise ConfigError(
            f"model.intermediate_hidden_size: {model_type} widens by a whole factor, and {inner} is no multiple of"
            f" hidden_size {hidden}; as published it is {2 * hidden}"
        )
    return _Wish(inner // hidden, _REQUIRED)


def _unspoken(cls: Any, model_type: str, names: set[str], request: ModelRequest) -> tuple[dict[str, Any], list[str]]:
    """What the common fields imply without naming it, and what of it the family cannot do."""
    model = request.model
    published: dict[str, Any] = {name: 0.0 for name in SILENT_DROPOUT if name in names}
    problems = []
    if "is_decoder" in {f.name for f in dataclasses.fields(cls)}:
        published["is_decoder"] = True  # otherwise the family looks at the tokens that it is to predict
    if "multi_query" in names:
        published["multi_query"] = request.key_value_heads == 1
        if request.key_value_heads not in (1, model.attention_heads):
            problems.append(
                f"model.key_value_heads: {model_type} has one, or one for each of the {model.attention_heads} heads;"
                f" {request.key_value_heads} cannot be honoured"
            )
    if "attention_types" in names:  # kinds of layers, as (kinds, repeats): those of the published depth are no others
        published["attention_types"] = [[["global", "local"], model.layers // 2], [["global"], model.layers % 2]]
    rotated = getattr(cls, "rotary_dim", None)
    if "rotary_dim" in names and isinstance(rotated, int):  # of a head, which may be smaller than the published one
        published["rotary_dim"] = min(rotated, request.head_dim)
    if "rope_parameters" in names:
        published["rope_parameters"] = default_rope(cls, model.rope_theta)
    elif model.rope_theta != _DEFAULT_THETA:
        problems.append(
            f"model.rope_theta: the config of {model_type!r} has no rope_parameters, so {model.rope_theta!r} cannot be"
            f" honoured; leave it at {_DEFAULT_THETA!r}"
        )
    return published, problems


def _wishes(model_type: str, request: ModelRequest) -> dict[str, _Wish]:
    model, special = request.model, request.special
    activation = canonical_activation(model.activation_function, gated=True, family=model_type)
    return {
        "layers": _Wish(model.layers, _REQUIRED),
        "hidden_size": _Wish(model.hidden_size, _REQUIRED),
        "embedding_size": _Wish(model.embedding_size, model.hidden_size),
        "intermediate_hidden_size": _Wish(model.intermediate_hidden_size, 4 * model.hidden_size),
        "attention_heads": _Wish(model.attention_heads, model.attention_heads),
        "key_value_heads": _Wish(request.key_value_heads, model.attention_heads),
        "head_dim": _Wish(request.head_dim, model.hidden_size // model.attention_heads),
        "activation_function": _Wish(activation, activation),
        "dropout": _Wish(model.dropout, 0.0),
        "attention_dropout": _Wish(model.attention_dropout, 0.0),
        "norm_epsilon": _Wish(model.norm_epsilon, 1e-5),
        "init_std": _Wish(model.init_std, 0.02),
        "state_size": _Wish(model.state_size, None),
        "bias": _Wish(model.bias, None),
        "tie_embeddings": _Wish(model.tie_embeddings, _REQUIRED),
        "max_position_embeddings": _Wish(request.positions, request.positions),
        "vocab_size": _Wish(request.vocab_size, _REQUIRED),
        "pad_token_id": _Wish(special.pad, special.pad),
        "bos_token_id": _Wish(special.bos, special.bos),
        "eos_token_id": _Wish(special.eos, special.eos),
    }


_REQUIRED = object()
_DEFAULT_THETA = 10000.0
# Without a wish the family keeps what it was published with.
_LEFT_ALONE = ("state_size", "bias")
