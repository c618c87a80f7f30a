"""How many tokens a model can read at once, wherever it says so."""

from typing import Any

from foundry_model.field_names import FIELD_NAMES

_OF_A_MODULE = "foundry_context"


def longest_context(model: Any) -> int | None:
    """Most tokens that `model` can read at once; None where the architecture sets no limit. [tokens]

    A module without a config of transformers is taken to read as many as it was built for, unless it says otherwise in
    an attribute `foundry_context` (None: any number).
    """
    limits = [getattr(getattr(model, "config", None), name, None) for name in FIELD_NAMES["max_position_embeddings"]]
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return known[0] if known else getattr(model, _OF_A_MODULE, None)


def note_context(model: Any, positions: int) -> None:
    """Note on a module that says nothing about it that it was built for `positions` tokens."""
    if longest_context(model) is None and not hasattr(model, _OF_A_MODULE):
        setattr(model, _OF_A_MODULE, positions)
