"""Choose the next token from logits, with random numbers that belong to each row alone.

logits [B, V] -> temperature -> top_k -> top_p -> one uniform number a row -> token ids [B]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foundry_config.errors import ConfigError, NonFiniteError

LOWEST_TEMPERATURE = 1e-30  # below it everything but the most likely token has no chance in fp32 either way


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Raises:
        ConfigError: A value outside its range.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token always."""
    top_k: int | None = None
    """Draw among this many most likely tokens."""
    top_p: float | None = None
    """Draw among the most likely tokens that together reach this probability."""

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.temperature < float("inf"):
            problems.append(f"temperature: {self.temperature} is not 0 or a positive number")
        if self.top_k is not None and self.top_k < 1:
            problems.append(f"top_k: {self.top_k} leaves no token; use 1 or more, or leave it out")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            problems.append(f"top_p: {self.top_p} is not a probability above 0")
        if problems:
            raise ConfigError("; ".join(problems))


def draw_tokens(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """Return one token id for each row. [B]

    Args:
        logits: Scores of the next token. [B, V]
        sampling: How to draw.
        generators: One CPU generator for each row; what a row draws does not depend on its neighbours.

    Raises:
        NonFiniteError: Some logit is NaN or infinite.
    """
    logits = logits.float()
    highest = logits.max(-1, keepdim=True).values
    if not highest.isfinite().all():
        raise NonFiniteError("the model gives logits that are NaN or infinite, so no token can be drawn from them")
    if sampling.temperature == 0:
        return logits.argmax(-1)
    likeliest = _within_top_k(logits, sampling.top_k)  # of the logits themselves: a difference may round two to one
    # differences are at most 0, so that no temperature, however small, makes them overflow
    scores = (likeliest - highest) / max(sampling.temperature, LOWEST_TEMPERATURE)
    kept = _within_top_p(scores, sampling.top_p)
    cumulative = kept.softmax(-1).double().cpu().cumsum(-1)  # [B, V]
    uniform = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])  # [B]
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    # rounding can point one past the last token that has a probability
    last = cumulative.shape[1] - 1 - (cumulative.flip(-1).diff(dim=-1) != 0).int().argmax(-1)
    return torch.minimum(drawn, last).to(logits.device)


def _within_top_k(scores: Tensor, top_k: int | None) -> Tensor:
    if top_k is None or top_k >= scores.shape[-1]:
        return scores
    least = scores.topk(top_k, dim=-1).values[:, -1:]
    return scores.masked_fill(scores < least, float("-inf"))


def _within_top_p(scores: Tensor, top_p: float | None) -> Tensor:
    if top_p is None or top_p >= 1:
        return scores
    ordered, order = scores.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # probability of all that is likelier
    return scores.masked_fill((before >= top_p).gather(-1, order.argsort(-1)), float("-inf"))
