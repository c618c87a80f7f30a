"""Is a model that transformers built what its config asked for? Two things go wrong in silence.

tying    a family that does not know `tie_word_embeddings`, or always ties, whatever it says
causal   an encoder (BERT and its like) sees the tokens that it is to predict, and its loss falls to nothing
"""

from typing import Any

import torch

from foundry_config.errors import ConfigError
from foundry_model.loss import probe_ids, token_logits
from foundry_model.modes import evaluating


def check_tying(model: Any, *, wanted: bool) -> Any:
    """Return the model if its output projection is the token embedding exactly where that is wanted.

    Raises:
        ConfigError: The family does it otherwise.
    """
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    tied = weight is model.get_input_embeddings().weight
    if weight is None or tied == wanted:
        return model
    does = "always ties" if tied else "cannot tie"
    raise ConfigError(
        f"model.tie_embeddings: {type(model).__name__} of transformers {does} its output projection to the token"
        f" embedding; use tie_embeddings: {str(tied).lower()}"
    )


def check_causal(model: Any, architecture: str) -> None:
    """Run the model once over as many tokens as it is built for, and once with other tokens at the end.

    Raises:
        ConfigError: It cannot be run on token ids alone, or what it predicts depends on later tokens.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    positions = min(positions, _LONGEST) if isinstance(positions, int) and positions > 1 else _LENGTH
    try:
        leaks = sees_later_tokens(model, length=positions)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(
            f"model.architecture: {architecture!r} does not run on {positions} token ids alone:"
            f" {type(error).__name__}: {str(error).strip()[:200]}"
        ) from error
    if leaks:
        raise ConfigError(
            f"model.architecture: {architecture!r} is not causal: what it predicts depends on later tokens, so its loss"
            " would mean nothing"
        )


def sees_later_tokens(model: Any, *, length: int = 16) -> bool:
    """Whether other tokens in the second half change what the model says about the first.

    Changes neither weights, nor modes, nor the state of any random generator.
    """
    with evaluating(model), torch.random.fork_rng(devices=[]):
        ids = probe_ids(model, length=length)  # [1, T]
        others = ids.clone()
        half = length // 2
        others[:, half:] = (ids[:, half:] + 1) % model.get_input_embeddings().weight.shape[0]
        first, second = (token_logits(model, each)[:, :half].float() for each in (ids, others))
    # where tokens are sorted by expert, other neighbours round a product differently
    share = 1e-4 if next(model.parameters()).dtype == torch.float32 else 3e-2
    return not torch.allclose(first, second, rtol=share, atol=share * float(first.abs().max()))


_LENGTH = 16  # where the config names no longest sequence
_LONGEST = 1024
