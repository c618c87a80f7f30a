"""One name for every spelling of an activation function.

    "GELU", "gelu"                       -> gelu                (exact, with erf)
    "gelu_new", "GELU-tanh", "gelu_fast" -> gelu_pytorch_tanh   (the same formula in one kernel)
    "SiLU", "swish"                      -> silu
    "SwiGLU", "GEGLU", "ReGLU"           -> silu, gelu, relu; only where the feed-forward layer has a gate

The names on the right are those of transformers, so that a saved config opens anywhere.
"""

from foundry_config.errors import ConfigError
from foundry_config.lookup import did_you_mean

GATED_SPELLINGS = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu"}


def canonical_activation(name: str, *, gated: bool, family: str) -> str:
    """Return transformers' name for the activation that `name` spells.

    Args:
        name: Any spelling: case, spaces, hyphens and underscores do not matter.
        gated: Whether the feed-forward layer of the family multiplies by a gate.
        family: Named in messages.

    Raises:
        ConfigError: The name is unknown, or names a gate (SwiGLU) in a family without one.

    >>> canonical_activation("SwiGLU", gated=True, family="llama")
    'silu'
    """
    key = _squeeze(name)
    if key in GATED_SPELLINGS:
        if gated:
            return GATED_SPELLINGS[key]
        raise no_gate(name, family)
    if key in _SPELLINGS:
        return _SPELLINGS[key]
    known = sorted(set(ACTIVATIONS))
    hint = did_you_mean(name, [*known, *_SPELLINGS, *GATED_SPELLINGS])
    raise ConfigError(
        f"model.activation_function: unknown activation {name!r}.{hint} Known: {', '.join(known)};"
        f" with a gate also: {', '.join(GATED_SPELLINGS)}"
    )


def wants_gate(name: str) -> bool:
    """Whether `name` spells an activation together with its gate."""
    return _squeeze(name) in GATED_SPELLINGS


def no_gate(name: str, family: str) -> ConfigError:
    """What to raise where a name wants a gate and the family has none."""
    return ConfigError(
        f"model.activation_function: {name!r} needs a gate, and the feed-forward layer of {family} has none;"
        f" use {GATED_SPELLINGS[_squeeze(name)]!r}, or a gated architecture such as llama"
    )


def _squeeze(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


# Name in transformers -> further spellings. "gelu_fast" and "gelu_new" compute the formula of
# "gelu_pytorch_tanh" out of five separate operations; the result is the same, the memory traffic is not.
ACTIVATIONS = {
    "gelu": ("gelu_erf", "gelu_exact", "gelu_none", "gelu_python"),
    "gelu_pytorch_tanh": ("gelu_new", "gelu_fast", "gelu_tanh", "gelu_approximate", "gelu_accurate", "tanh_gelu"),
    "quick_gelu": ("gelu_quick", "gelu_sigmoid"),
    "silu": ("swish", "silu_and_mul"),
    "relu": (),
    "relu2": ("relu_squared", "squared_relu", "relu^2"),
    "relu6": (),
    "leaky_relu": (),
    "tanh": (),
    "sigmoid": ("logistic",),
    "mish": (),
    "laplace": (),
    "hardswish": ("hard_swish",),
    "linear": ("identity", "none"),
}
_SPELLINGS = {_squeeze(s): name for name, others in ACTIVATIONS.items() for s in (name, *others)}
