"""Is a model that transformers or a user's function built what was asked for? Two things go wrong in silence.

tying    a family that does not know `tie_word_embeddings`, or always ties, whatever it says
causal   an encoder (BERT and its like) sees the tokens that it is to predict, and its loss falls to nothing
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from foundry_config.errors import ConfigError
from foundry_config.names import is_reference
from foundry_model.loss import call_on_tokens, embedded_ids, probe_ids
from foundry_model.modes import evaluating, fixed_chance
from foundry_model.out_of_memory import is_out_of_memory
from foundry_model.reach import out_of_reach


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


def check_causal(model: Any, architecture: str, *, vocab_size: int, length: int) -> frozenset[str]:
    """Run the model once over as many tokens as it is built for, and once with other tokens at the end.

    Args:
        model: On its device.
        architecture: Named in messages.
        vocab_size: Ids that there will be. [tokens]
        length: Positions that were asked for, run over where its config names no more. [tokens]

    Returns:
        Names of the parameters that text does not reach.

    Raises:
        ConfigError: It cannot be run on token ids alone, gives no logits for them, or what it predicts depends on later
            tokens.
    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    built_for = positions if isinstance(positions, int) and positions > 1 else length
    if built_for < length:
        raise ConfigError(
            f"model.architecture: {architecture!r} gives a model for {built_for} positions, fewer than the {length} of"
            " model.max_position_embeddings or data.max_sequence_length"
        )
    positions = min(built_for, _LONGEST)
    try:
        with failures_told(positions):
            leaks = sees_later_tokens(model, length=positions, vocab_size=vocab_size)
            # what a user wrote may take rows of one length only
            enough = positions if is_reference(architecture) else min(positions, _ENOUGH)
            left = out_of_reach(model, length=enough, vocab_size=vocab_size)
    except ConfigError as error:
        raise ConfigError(f"model.architecture: {architecture!r} {error}") from error.__cause__
    if leaks:
        raise ConfigError(
            f"model.architecture: {architecture!r} is not causal: what it predicts depends on later tokens, so its loss"
            " would mean nothing"
        )
    return left


@contextmanager
def failures_told(length: int) -> Iterator[None]:
    """Turn whatever a model raises inside into a `ConfigError` that goes on from its name: "does not run on ...".

    Args:
        length: Tokens that it runs over.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # what others wrote may raise anything
        if is_out_of_memory(error):
            raise
        told = f"{type(error).__name__}: {str(error).strip()[:200]}"
        raise ConfigError(f"does not run on {length} token ids alone: {told}") from error


def sees_later_tokens(model: Any, *, vocab_size: int | None = None, length: int = 16) -> bool:
    """Whether other tokens in the second half change what the model says about the first.

    Changes neither weights, nor modes, nor the state of any random generator.

    Args:
        model: On its device.
        vocab_size: V, ids that there will be. Default: as many as the model has embeddings. [tokens]
        length: T, tokens to run over.

    Raises:
        ConfigError: The output has no logits [B, T, V or more], or some that are NaN.
    """
    vocab_size = vocab_size or embedded_ids(model)
    ids = probe_ids(model, length=length, vocab_size=vocab_size)  # [1, T]
    others = ids.clone()
    half = length // 2
    others[:, half:] = (ids[:, half:] + 1) % vocab_size
    others[:, -1] = vocab_size - 1  # which a table that is too small does not have
    with evaluating(model):
        first, second = (_checked_logits(model, each, vocab_size)[:, :half].float() for each in (ids, others))
    if not torch.equal(first.isfinite(), second.isfinite()):
        return True
    first, second = (logits[logits.isfinite()] for logits in (first, second))
    # where tokens are sorted by expert, other neighbours round a product differently
    share = 1e-4 if next(model.parameters()).dtype == torch.float32 else 3e-2
    largest = float(first.abs().max()) if len(first) else 0.0
    return not torch.allclose(first, second, rtol=share, atol=share * largest)


def _checked_logits(model: Any, ids: Tensor, vocab_size: int) -> Tensor:
    with fixed_chance(model):
        output = call_on_tokens(model, ids)
    logits = getattr(output, "logits", None)
    wanted = f"[{len(ids)}, {ids.shape[1]}, {vocab_size}]"
    if not isinstance(logits, Tensor):
        raise ConfigError(f"gives a {type(output).__name__}; its output must have .logits of shape {wanted}")
    if logits.dim() != 3 or logits.shape[:2] != ids.shape or logits.shape[2] < vocab_size:
        raise ConfigError(f"gives logits of shape {list(logits.shape)} where {wanted} is needed")
    if logits.isnan().any():
        raise ConfigError("gives logits that are no numbers (NaN)")
    return logits


_ENOUGH = 16  # tokens, to see which parts of a family are called
_LONGEST = 1024
