"""What an architecture function is given, what it returns, and how it says no.

    ModelConfig + sizes + special ids  --gpt2(request)-->  Blueprint("gpt2", fields={n_layer: 2, ...}, published={...})

`fields` come from the config's common names and are final; `published` are the constants the family is known by, which
`model.extra` may change. A field that a family cannot honour is refused by name, never ignored: the same config in
another family then differs in nothing that was not said.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foundry_config.errors import ConfigError
from foundry_config.schema import ModelConfig
from foundry_model.activations import canonical_activation


@dataclass(frozen=True)
class SpecialIds:
    """Token ids with a meaning, as the tokenizer has them; None where it has no such token."""

    pad: int | None = 0
    bos: int | None = 2
    eos: int | None = 3
    unk: int | None = 1


@dataclass(frozen=True)
class ModelRequest:
    """Everything that decides the shape of a model."""

    model: ModelConfig
    vocab_size: int
    positions: int
    """Longest sequence the model is built for. [tokens]"""
    special: SpecialIds

    @property
    def head_dim(self) -> int:
        """Width of one attention head. [units]"""
        return self.model.head_dim or self.model.hidden_size // self.model.attention_heads

    @property
    def key_value_heads(self) -> int:
        """Number of key/value heads."""
        return self.model.key_value_heads or self.model.attention_heads

    def activation(self, family: str, *, gated: bool) -> str:
        """Name of the feed-forward activation, as transformers spells it."""
        return canonical_activation(self.model.activation_function, gated=gated, family=family)


@dataclass(frozen=True)
class Blueprint:
    """A model of transformers before it is built: its type, and the fields of its own config."""

    model_type: str
    fields: Mapping[str, Any]
    """Fields that the common names of `model` set."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """Constants of the family; `model.extra` may change them."""


def require_activation(request: ModelRequest, family: str, name: str) -> str:
    """Return `name`, the one activation that a family computes with.

    Raises:
        ConfigError: The config asks for another one.
    """
    if request.activation(family, gated=True) != name:
        raise ConfigError(
            f"model.activation_function: {family} always computes with {name}, so"
            f" {request.model.activation_function!r} cannot be honoured; use {name!r}"
        )
    return name


def require(request: ModelRequest, family: str, *, lacks: tuple[str, ...] = (), **only: tuple[Any, ...]) -> None:
    """Refuse every field that the family cannot honour, all of them in one message.

    Args:
        request: The model asked for.
        family: Named in the message.
        lacks: Fields that do not exist in the family: only their neutral value passes.
        only: Field -> the values that the family can honour.

    Raises:
        ConfigError: At least one field has another value.
    """
    model = request.model
    allowed = {name: _neutral(request, name) for name in lacks} | only
    problems = [
        f"model.{name}: {family} {_LACKS.get(name, 'leaves no choice of it')}, so {getattr(model, name)!r} cannot be"
        f" honoured; use {' or '.join(repr(v) for v in values)}"
        for name, values in allowed.items()
        if getattr(model, name) not in values
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def heads_problems(request: ModelRequest) -> list[str]:
    """What is wrong with the heads of an architecture that has attention."""
    model = request.model
    problems = []
    if model.head_dim is None and model.hidden_size % model.attention_heads:
        problems.append(
            f"model.attention_heads: {model.attention_heads} heads do not divide hidden_size {model.hidden_size};"
            " change one of them or set model.head_dim"
        )
    if model.attention_heads % request.key_value_heads:
        problems.append(
            f"model.key_value_heads: {request.key_value_heads} do not divide attention_heads {model.attention_heads}"
        )
    return problems


def _neutral(request: ModelRequest, name: str) -> tuple[Any, ...]:
    """Values of a field that ask for nothing: its default, and what the other fields imply anyway."""
    model = request.model
    implied = {
        "key_value_heads": (None, model.attention_heads),
        "head_dim": (None, model.hidden_size // model.attention_heads),
        "embedding_size": (model.hidden_size,),
    }
    return implied.get(name) or (_DEFAULTS[name],)


_LACKS = {
    "embedding_size": "has one width for embeddings and blocks",
    "dropout": "has no dropout on embeddings and residual branches",
    "attention_dropout": "has no dropout on attention weights",
    "key_value_heads": "gives every query head its own key/value head",
    "head_dim": "splits the hidden size evenly over the heads",
    "rope_theta": "has no rotary position embedding",
    "norm_epsilon": "fixes the epsilon of its normalization layers",
    "bias": "leaves no choice of biases",
    "state_size": "has no recurrent state of a free size",
    "init_std": "has an initialization of its own",
}
_DEFAULTS = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "rope_theta": 10000.0,
    "norm_epsilon": 1e-5,
    "bias": None,
    "state_size": None,
    "init_std": 0.02,
}
