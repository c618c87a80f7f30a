"""What a training run asks about its model while it goes on; nothing here changes a training bit.

    evaluate_sequences(model, batches).values()       {"loss": 3.1, "perplexity": 22.2, ...}     held-out sequences
    evaluate_minimal_pairs(model, tokenizer, paths)   {"wh_island": 0.71, ..., "overall": 0.68}  minimal pairs

The model is scored in fp32 and evaluation mode, and every module and random generator is put back afterwards.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from foundry_model.corpus_loss import CorpusScore
from foundry_model.loss import token_loss
from foundry_model.minimal_pairs import Accuracy, Measure, ScoredPair, accuracies, score_pair_files
from foundry_model.scoring_model import ScoringModel, open_for_scoring
from foundry_model.scoring_tokenizer import ScoringTokenizer

LOGITS_AT_ONCE = 2**28
"""Numbers, of 4 bytes: those of a whole micro-batch could take more memory than a step of the training."""


class SequenceBatch(Protocol):
    """Sequences as the training loop reads them."""

    @property
    def input_ids(self) -> Tensor:
        """Token ids. [B, T]"""
        ...

    @property
    def labels(self) -> Tensor:
        """Token ids, unshifted; -100 is no target. [B, T]"""
        ...


def evaluate_sequences(
    model: nn.Module,
    batches: Iterable[SequenceBatch],
    *,
    batch_size: int = 8,
    words: int | None = None,
    size: int | None = None,
) -> CorpusScore:
    """Return the loss over batches of sequences, each token counted once.

    Args:
        model: The model in training; it may be compiled or wrapped.
        batches: Batches as the data package makes them; `position_ids` and `attention_mask` are used if there are any.
        batch_size: Sequences per forward pass, fewer where there would be too many logits. [sequences]
        words: Words of the text behind them, for bits per word.
        size: Bytes of the text behind them, for bits per byte.

    Raises:
        ValueError: No sequence has a target.
    """
    nats, tokens = 0.0, 0
    with open_for_scoring(model) as scorer:
        for batch in batches:
            rows, length = batch.input_ids.shape
            step = max(1, min(batch_size, LOGITS_AT_ONCE // (length * scorer.vocab_size)))
            for start in range(0, rows, step):
                loss, count = _loss_of(batch, slice(start, start + step), scorer)
                nats += loss
                tokens += count
    if not tokens:
        raise ValueError("no sequence with a target to evaluate on")
    return CorpusScore(nats, tokens, size, words)


def evaluate_minimal_pairs(
    model: nn.Module,
    tokenizer: ScoringTokenizer,
    paths: Sequence[str | Path],
    *,
    measure: Measure = "sum",
    start_id: int | None = None,
    batch_tokens: int | None = None,
) -> dict[str, float]:
    """Return accuracies by name: one for each file, `field=...`, `term=...`, and `overall`.

    Args:
        model: The model in training.
        tokenizer: Its tokenizer.
        paths: Files and folders of minimal pairs.
        measure: `sum` or `per_token` log-probability.
        start_id: Token that every text starts from. Default: BOS, or EOS if there is none. [token id]
        batch_tokens: Most tokens that the model reads at once. [tokens]

    Raises:
        DataError: A file or pair that cannot be scored; names file and line.
    """
    scored: list[ScoredPair] = []
    for pairs in score_pair_files(model, tokenizer, paths, start_id=start_id, batch_tokens=batch_tokens):
        scored += pairs
    return {item_name(found): found.value for found in accuracies(scored) if found.measure == measure}


def item_name(found: Accuracy) -> str:
    """Name an accuracy in tables and charts.

    >>> item_name(Accuracy("field", "syntax", "sum", 10, 8.0, 0, 0.49, 0.94))
    'field=syntax'
    """
    if found.group == "overall":
        return "overall"
    return found.name if found.group == "file" else f"{found.group}={found.name}"


def _loss_of(batch: SequenceBatch, rows: slice, scorer: ScoringModel) -> tuple[float, int]:
    """Summed loss [nats] and number of targets of some sequences of a batch."""
    input_ids, labels, position_ids, attention_mask = (
        None if tensor is None else tensor[rows].to(scorer.device)
        for tensor in (
            batch.input_ids,
            batch.labels,
            getattr(batch, "position_ids", None),
            getattr(batch, "attention_mask", None),
        )
    )
    assert input_ids is not None and labels is not None
    loss, count = token_loss(
        scorer.model,
        input_ids,
        labels,
        position_ids=position_ids,
        attention_mask=attention_mask,
        chunked=input_ids.numel() * scorer.vocab_size > LOGITS_AT_ONCE and scorer.head is not None,
    )
    return float(loss), int(count)
