"""How well does a model predict a corpus: loss per token, perplexity, and bits per byte and word.

Loss and perplexity are per token, so they compare only models with one tokenizer; bits per byte and per word divide
the same sum by what the text has whatever its tokens, and compare any two. Every document is scored on its own, from
the start token on, and a long one through a sliding window (`windows`): every token counts exactly once.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from torch import nn

from foundry_config.errors import DataError
from foundry_model.scoring import score_spans
from foundry_model.scoring_model import ScoringModel, open_for_scoring
from foundry_model.scoring_tokenizer import ScoringTokenizer, check_vocabulary, encode_texts, start_token
from foundry_model.windows import Windowing

CHARACTERS_AT_ONCE = 2**20


class PlacedText(NamedTuple):
    """A document, and what a message calls it."""

    text: str
    where: str


@dataclass(frozen=True)
class CorpusScore:
    """Summed surprisal of a text and the sizes that it is divided by."""

    nats: float
    tokens: int
    """Scored tokens."""
    bytes: int | None = None
    """Bytes of the text in UTF-8, where known."""
    words: int | None = None
    """Whitespace-separated words, where known."""
    unknown: int = 0
    """How many of the tokens are the unknown one, which stands for any text that the vocabulary cannot spell."""

    @property
    def loss(self) -> float:
        """Mean surprisal. [nats per token]"""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite beyond what a float holds."""
        return math.inf if self.loss >= 709 else math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float | None:
        return self.nats / math.log(2) / self.bytes if self.bytes else None

    @property
    def bits_per_word(self) -> float | None:
        return self.nats / math.log(2) / self.words if self.words else None

    def values(self) -> dict[str, float]:
        """Return the measures that are known, by name."""
        found = {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "bits_per_word": self.bits_per_word,
        }
        return {name: value for name, value in found.items() if value is not None}


def score_corpus(
    model: nn.Module | ScoringModel,
    tokenizer: ScoringTokenizer,
    documents: Iterable[str | PlacedText],
    *,
    window: int | None = None,
    stride: int | None = None,
    start_id: int | None = None,
    unknown: Literal["refuse", "score"] = "refuse",
    batch_tokens: int | None = None,
) -> CorpusScore:
    """Score a corpus in bounded memory (one document and about a million characters at a time).

    Args:
        model: A causal model, or one already opened.
        tokenizer: The model's own.
        documents: Texts; those without a token add to the bytes only. A plain text is called by its number.
        window: Most tokens that the model sees at once. Default: its context. [tokens]
        stride: How far the window moves. Default: half of it. [tokens]
        start_id: Token that every document starts from. Default: BOS, or EOS if there is none. [token id]
        unknown: `refuse` or `score` text that the tokenizer cannot spell.
        batch_tokens: Most tokens that the model reads at once. [tokens]

    Raises:
        DataError: The tokenizer is not the model's, or cannot spell a document; names the document and the word.
        ConfigError: A window or stride that does not fit the model.
        ValueError: There is nothing to score.
    """
    if not isinstance(model, ScoringModel):
        with open_for_scoring(model) as scorer:
            return score_corpus(
                scorer,
                tokenizer,
                documents,
                window=window,
                stride=stride,
                start_id=start_id,
                unknown=unknown,
                batch_tokens=batch_tokens,
            )
    check_vocabulary(tokenizer, model.vocab_size, padded=True)
    windowing = Windowing(model.context, window=window, stride=stride)
    start = start_token(tokenizer) if start_id is None else start_id
    nats, tokens, size, words, not_spelled = 0.0, 0, 0, 0, 0
    for placed in _groups(documents):
        group = [document.text for document in placed]
        texts = encode_texts(tokenizer, group)
        not_spelled += _count_unknown(placed, texts, tokenizer, refuse=unknown == "refuse")
        spans = [span for ids in texts if ids for span in windowing.spans((start, *ids))]
        for score in score_spans(model, spans, batch_tokens=batch_tokens):
            nats -= float(np.sum(score.logprobs, dtype=np.float64))
        tokens += sum(map(len, texts))
        size += sum(len(text.encode()) for text in group)
        words += sum(len(text.split()) for text in group)
    if not tokens:
        raise ValueError("the corpus has no token to score")
    return CorpusScore(nats, tokens, size, words, not_spelled)


def _count_unknown(
    documents: Sequence[PlacedText], texts: Sequence[Sequence[int]], tokenizer: ScoringTokenizer, *, refuse: bool
) -> int:
    """Count the unknown tokens; if they are refused, raise for the first document that has one."""
    unk_id = tokenizer.unk_id
    counts = [0 if unk_id is None else ids.count(unk_id) for ids in texts]
    if refuse and any(counts):
        document = next(document for document, count in zip(documents, counts, strict=True) if count)
        parts = dict.fromkeys([*document.text.split(), *document.text])  # a line break is in no word
        part = next((part for part in parts if unk_id in encode_texts(tokenizer, [part])[0]), document.text[:40])
        raise DataError(
            f"{document.where}: the tokenizer cannot spell {part!r}, so the loss would say little; train the tokenizer "
            "with byte_fallback, or ask for unknown 'score'"
        )
    return sum(counts)


def _groups(documents: Iterable[str | PlacedText]) -> Iterator[list[PlacedText]]:
    group: list[PlacedText] = []
    characters = 0
    for number, document in enumerate(documents, 1):
        placed = PlacedText(document, f"document {number:,}") if isinstance(document, str) else document
        group.append(placed)
        characters += len(placed.text)
        if characters >= CHARACTERS_AT_ONCE:
            yield group
            group, characters = [], 0
    if group:
        yield group
