"""Exact log-probabilities of many token sequences: fp32, in batches, in bounded memory.

    score_spans(model, [Span((2, 5, 9)), Span((2, 5, 7, 4))])
    -> [-1.7 -4.2]           log p(5 | 2), log p(9 | 2 5)
       [-1.7 -3.0 -0.6]      log p(5 | 2), log p(7 | 2 5), log p(4 | 2 5 7)

The two share `2 5`, which a model with plain attention reads once (`prefix_trie`). Logits are made a few hundred rows
at a time, only at positions that are asked for, and only their log-sum-exp is kept. How sequences are grouped changes
a result by rounding alone.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from foundry_config.errors import NonFiniteError
from foundry_model.prefix_trie import Row, Span, batches, pack_chains, pack_tries
from foundry_model.scoring_model import ScoringModel, open_for_scoring

Floats = npt.NDArray[np.float32]

ROW_TOKENS = 64  # longer tries share more but look at more tokens in vain; 48 to 96 are equally fast
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2**11, 2**15
CPU_LOGITS, GPU_LOGITS = 2**23, 2**27  # numbers held at once: 32 MiB, 512 MiB


class SpanScore(NamedTuple):
    """Scores of one span of n tokens, natural logarithms."""

    logprobs: Floats
    """Of the scored tokens. [n - first]"""
    boundary: Floats | None
    """Of "the next token is in the set asked for", before each scored token and after the last. [n - first + 1]"""


def score_spans(
    model: nn.Module | ScoringModel,
    spans: Sequence[Span],
    *,
    boundary: Sequence[bool] | None = None,
    batch_tokens: int | None = None,
) -> list[SpanScore]:
    """Return the log-probability of every scored token.

    Args:
        model: A causal model, or one already opened by `open_for_scoring`.
        spans: What to score.
        boundary: A set of tokens whose summed probability is wanted too. [V]
        batch_tokens: Most tokens that the model reads at once, padding included. Default: by device. [tokens]

    Returns:
        One score for each span, in order.

    Raises:
        ValueError: A span has nothing to score, or does not fit into the model's context.
        NonFiniteError: The model's logits are NaN.
    """
    if not isinstance(model, ScoringModel):
        with open_for_scoring(model) as scorer:
            return score_spans(scorer, spans, boundary=boundary, batch_tokens=batch_tokens)
    whole = boundary is not None
    _check(spans, model, whole)
    members = None if boundary is None else _members(boundary, model)
    logprobs = _Collected([len(span.tokens) - span.first for span in spans])
    masses = None if members is None else _Collected([len(span.tokens) - span.first + 1 for span in spans])
    for batch in _plan(spans, model, whole, batch_tokens):
        states = _read(model, batch)  # [B * T, D or V]
        contexts, targets, slots = _targets(batch, spans, logprobs)
        inside = _boundaries(batch, spans, masses) if masses is not None else (_EMPTY, _EMPTY)
        found, found_inside = _read_out(model, states, contexts, targets, inside[0], members)
        if np.isnan(found).any():
            raise NonFiniteError("the model gives no probabilities: its logits are NaN or infinite")
        logprobs.values[slots] = found
        if masses is not None:
            masses.values[inside[1]] = found_inside
    return [SpanScore(logprobs.of(i), masses.of(i) if masses is not None else None) for i in range(len(spans))]


class _Collected:
    """Results of all spans in one array: span i has values[starts[i] : starts[i + 1]]."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.starts = np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64))])
        self.values = np.zeros(self.starts[-1], dtype=np.float32)

    def of(self, number: int) -> Floats:
        return self.values[self.starts[number] : self.starts[number + 1]]

    def slots(self, number: int) -> npt.NDArray[np.int64]:
        return np.arange(self.starts[number], self.starts[number + 1])


_EMPTY = np.zeros(0, dtype=np.int64)


def _check(spans: Sequence[Span], scorer: ScoringModel, whole: bool) -> None:
    for number, span in enumerate(spans):
        if not 1 <= span.first < len(span.tokens):
            raise ValueError(f"span {number} has {len(span.tokens)} tokens, the first scored one is {span.first}")
        read = len(span.tokens) if whole else len(span.tokens) - 1
        if scorer.context is not None and read > scorer.context:
            raise ValueError(f"span {number} reads {read} tokens, the model takes {scorer.context}")


def _members(boundary: Sequence[bool], scorer: ScoringModel) -> Tensor:
    """The set as 0 and 1 over the logits, whose padding, if any, is no member. [V]"""
    members = torch.zeros(scorer.vocab_size, dtype=torch.float32, device=scorer.device)
    members[: len(boundary)] = torch.tensor(list(boundary), dtype=torch.float32)
    return members


def _plan(spans: Sequence[Span], scorer: ScoringModel, whole: bool, batch_tokens: int | None) -> Iterator[list[Row]]:
    """Cut the work into batches; a shorter row is never padded to one of another kind."""
    on_cpu = scorer.device.type == "cpu"
    batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS)
    if scorer.head is None:  # then all logits of a batch exist at once
        batch_tokens = min(batch_tokens, max(1, GPU_LOGITS // scorer.vocab_size))
    if not scorer.reads_tries:
        yield from batches(pack_chains(spans, whole=whole), batch_tokens=batch_tokens)
        return
    # some models (gpt_neo) keep a table as long as their context and look tokens up by row, not by position
    row_tokens = min(ROW_TOKENS, scorer.context or ROW_TOKENS)
    limit = row_tokens if whole else row_tokens + 1
    short = [number for number, span in enumerate(spans) if len(span.tokens) <= limit]
    long = [number for number, span in enumerate(spans) if len(span.tokens) > limit]
    for numbers, rows in (
        (short, pack_tries([spans[n] for n in short], row_tokens=row_tokens, whole=whole)),
        (long, pack_chains([spans[n] for n in long], whole=whole)),
    ):
        for batch in batches(rows, batch_tokens=batch_tokens):
            for row in batch:
                row.queries[:] = [query._replace(span=numbers[query.span]) for query in row.queries]
            yield batch


def _read(scorer: ScoringModel, batch: list[Row]) -> Tensor:
    """Run the model over a batch of rows. [B * T, D or V]"""
    length = max(len(row) for row in batch)
    input_ids = np.zeros((len(batch), length), dtype=np.int64)  # [B, T]
    positions = np.zeros_like(input_ids)
    for index, row in enumerate(batch):
        input_ids[index] = row.tokens[0]  # padding that no model takes for padding: nobody looks at it
        input_ids[index, : len(row)] = row.tokens
        positions[index, : len(row)] = row.depths
    ids = torch.from_numpy(input_ids).to(scorer.device)
    if all(row.is_chain for row in batch):
        states = scorer.read(ids)
    else:
        mask = np.zeros((len(batch), length, length), dtype=bool)  # [B, T, T]
        mask[:, np.arange(length), np.arange(length)] = True  # padding sees itself: an empty row would be NaN
        for index, row in enumerate(batch):
            row.fill_mask(mask[index])
        mask_tensor = torch.from_numpy(mask).to(scorer.device)
        states = scorer.read(ids, mask=mask_tensor, positions=torch.from_numpy(positions).to(scorer.device))
    return states.reshape(-1, states.shape[-1])


def _targets(batch: list[Row], spans: Sequence[Span], results: _Collected) -> tuple[npt.NDArray[np.int64], ...]:
    """For every scored token: the row of the states that predicts it, its id, and where its result goes. Each [N]"""
    length = max(len(row) for row in batch)
    contexts, targets, slots = [], [], []
    for index, row in enumerate(batch):
        for number, path in row.queries:
            span = spans[number]
            contexts.append(index * length + path[span.first - 1 : len(span.tokens) - 1])
            targets.append(np.asarray(span.tokens[span.first :], dtype=np.int64))
            slots.append(results.slots(number))
    return np.concatenate(contexts), np.concatenate(targets), np.concatenate(slots)


def _boundaries(batch: list[Row], spans: Sequence[Span], results: _Collected) -> tuple[npt.NDArray[np.int64], ...]:
    """For every place before, between and after scored tokens: its row of the states, and where its result goes."""
    length = max(len(row) for row in batch)
    contexts, slots = [], []
    for index, row in enumerate(batch):
        for number, path in row.queries:
            contexts.append(index * length + path[spans[number].first - 1 :])
            slots.append(results.slots(number))
    return np.concatenate(contexts), np.concatenate(slots)


def _read_out(
    scorer: ScoringModel,
    states: Tensor,
    contexts: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
    inside: npt.NDArray[np.int64],
    members: Tensor | None,
) -> tuple[Floats, Floats]:
    """Return log p(target | context) [N], and log p(a member | context) [M] for `inside`; each row is expanded once."""
    rows = np.unique(np.concatenate([contexts, inside]))
    scores = np.empty(len(contexts), dtype=np.float32)
    masses = np.empty(len(inside), dtype=np.float32)
    size = max(1, (CPU_LOGITS if scorer.device.type == "cpu" else GPU_LOGITS) // scorer.vocab_size)
    places, places_inside = np.searchsorted(rows, contexts), np.searchsorted(rows, inside)
    for start in range(0, len(rows), size):
        chosen = torch.from_numpy(rows[start : start + size]).to(scorer.device)
        logits = scorer.logits(states[chosen])  # [n, V]
        wanted = np.flatnonzero((places >= start) & (places < start + size))
        wanted_inside = np.flatnonzero((places_inside >= start) & (places_inside < start + size))
        at = torch.from_numpy(places[wanted] - start).to(scorer.device)
        picked = logits[at, torch.from_numpy(targets[wanted]).to(scorer.device)]
        highest = logits.amax(-1, keepdim=True)
        logits = logits.sub_(highest).exp_()  # in place: this is most of the memory that scoring takes
        total = logits.sum(-1)  # [n]
        scores[wanted] = ((picked - highest[at, 0]) - total[at].log()).cpu().numpy()
        if members is not None:
            mass = ((logits @ members) / total).clamp_(max=1.0).log()
            masses[wanted_inside] = mass.cpu().numpy()[places_inside[wanted_inside] - start]
    return scores, masses
