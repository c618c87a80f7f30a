"""Values that no family can have. A config class of transformers checks types, and hardly any value.

    {"num_attention_heads": 0, "resid_pdrop": 3}  ->  num_attention_heads 0 (possible is 1 or more), ...

What is wrong in one family only comes to light when it is built or run; this here is told with the name of the field.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from foundry_model.field_names import FIELD_NAMES, SILENT_DROPOUT


def impossible_values(settings: Mapping[str, Any]) -> list[str]:
    """Name the numbers in the settings of a family that cannot be right, with what is possible."""
    found = []
    for common, span in _POSSIBLE.items():
        for name in FIELD_NAMES[common] + (SILENT_DROPOUT if common == "dropout" else ()):
            value = settings.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not span.low <= value <= span.high:  # NaN is nowhere
                found.append(f"{name} {value!r} (possible is {span.words})")
    return found


class _Span(NamedTuple):
    low: float
    high: float
    words: str


_SHARE = _Span(0, 1, "0 to 1")
_SOME = _Span(1, math.inf, "1 or more")
_ANY = _Span(0, math.inf, "0 or more")
# Common field -> what the fields that stand for it can be.
_POSSIBLE = {
    "vocab_size": _SOME,
    "hidden_size": _SOME,
    "attention_heads": _SOME,
    "layers": _ANY,
    "embedding_size": _ANY,
    "intermediate_hidden_size": _ANY,
    "key_value_heads": _ANY,
    "head_dim": _ANY,
    "state_size": _ANY,
    "max_position_embeddings": _ANY,
    "norm_epsilon": _ANY,
    "init_std": _ANY,
    "dropout": _SHARE,
    "attention_dropout": _SHARE,
}
