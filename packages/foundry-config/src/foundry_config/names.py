"""Names that a config may use for what other packages build, so that a misspelled one is refused before they load.

Each tuple repeats the keys of a table elsewhere (`OPTIMIZERS` of foundry_train, `ARCHITECTURES` and `ACTIVATIONS` of
foundry_model, ...). What stands in no table is named as `"package.module:function"`.
"""

import re
from collections.abc import Iterable

from foundry_config.lookup import did_you_mean

ARCHITECTURES = (
    "gpt2",
    "gpt_neox",
    "pythia",
    "opt",
    "llama",
    "mistral",
    "qwen3",
    "olmo2",
    "gemma3",
    "smollm3",
    "mamba",
    "mamba2",
    "rwkv",
)
WITHOUT_ATTENTION = ("mamba", "mamba2", "rwkv")
SEPARATE_EMBEDDING = ("opt",)  # families whose embedding may be narrower than their blocks
OPTIMIZERS = ("adamw", "muon", "sgd", "adafactor")
LR_SCHEDULES = ("linear", "cosine", "wsd", "constant", "inverse_sqrt", "polynomial")
ACTIVATIONS = (
    *("gelu", "gelu_erf", "gelu_exact", "gelu_none", "gelu_python"),
    *("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_tanh", "gelu_approximate", "gelu_accurate", "tanh_gelu"),
    *("quick_gelu", "gelu_quick", "gelu_sigmoid"),
    *("silu", "swish", "silu_and_mul", "swiglu", "geglu", "reglu"),
    *("relu", "relu2", "relu_squared", "squared_relu", "relu^2", "relu6", "leaky_relu"),
    *("tanh", "sigmoid", "logistic", "mish", "laplace", "hardswish", "hard_swish", "linear", "identity", "none"),
)

_SQUEEZED_ACTIVATIONS = frozenset("".join(c for c in name if c.isalnum()) for name in ACTIVATIONS)
SPECIAL_TEXTS = ("<pad>", "<unk>", "<s>", "</s>")
"""The special tokens of every tokenizer that is trained, in the order of their ids."""
FAMILY = "hf:"
"""Begins the name of an architecture that is a model type of transformers."""
REFERENCE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_reference(name: str) -> bool:
    """Say whether `name` is written as `package.module:function`; `hf:<model_type>` looks alike and is none."""
    return REFERENCE.fullmatch(name) is not None and not name.startswith(FAMILY)


def unknown_name(name: str, known: Iterable[str], *, kind: str, others: str = "or `module:function`") -> str | None:
    """Return what is wrong with a name that is neither known nor a reference, or None; `others` may stand there too."""
    names = list(known)
    if name in names or is_reference(name):
        return None
    return f"unknown {kind} {name!r}.{did_you_mean(name, names)} Known: {', '.join(names)}, {others}"


def is_activation(name: str) -> bool:
    """Say whether `name` spells a known activation; case, spaces, hyphens and underscores do not matter."""
    return "".join(char for char in name.lower() if char.isalnum()) in _SQUEEZED_ACTIVATIONS
