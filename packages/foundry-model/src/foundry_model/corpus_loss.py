"""How well does a model predict a corpus: loss per token, perplexity, and bits per byte and word.

Loss and perplexity are per token, so they compare only models with one tokenizer; bits per byte and per word divide
the same sum by what the text has whatever its tokens, and compare any two. Every document is scored on its own, from
the start token on, and a long one through a sliding window (`windows`): every token counts exactly once.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from foundry_model.scoring import score_spans
from foundry_model.scoring_model import ScoringModel, open_for_scoring
from foundry_model.scoring_tokenizer import ScoringTokenizer, check_vocabulary, encode_texts, start_token
from foundry_model.windows import Windowing

CHARACTERS_AT_ONCE = 2**20


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

    @property
    def loss(self) -> float:
        """Mean surprisal. [nats per token]"""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite beyond what a float holds."""
        return math.exp(self.loss) if self.loss < 709 else math.inf

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
    documents: Iterable[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    start_id: int | None = None,
    batch_tokens: int | None = None,
) -> CorpusScore:
    """Score a corpus in bounded memory (one document and about a million characters at a time).

    Args:
        model: A causal model, or one already opened.
        tokenizer: The model's own.
        documents: Texts; those without a token add to the bytes only.
        window: Most tokens that the model sees at once. Default: its context. [tokens]
        stride: How far the window moves. Default: half of it. [tokens]
        start_id: Token that every document starts from. Default: BOS, or EOS if there is none. [token id]
        batch_tokens: Most tokens that the model reads at once. [tokens]

    Raises:
        DataError: The tokenizer is not the model's.
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
                batch_tokens=batch_tokens,
            )
    check_vocabulary(tokenizer, model.vocab_size, padded=True)
    windowing = Windowing(model.context, window=window, stride=stride)
    start = start_token(tokenizer) if start_id is None else start_id
    nats, tokens, size, words = 0.0, 0, 0, 0
    for group in _groups(documents):
        texts = encode_texts(tokenizer, group)
        spans = [span for ids in texts if ids for span in windowing.spans((start, *ids))]
        for score in score_spans(model, spans, batch_tokens=batch_tokens):
            nats -= float(np.sum(score.logprobs, dtype=np.float64))
        tokens += sum(map(len, texts))
        size += sum(len(text.encode()) for text in group)
        words += sum(len(text.split()) for text in group)
    if not tokens:
        raise ValueError("the corpus has no token to score")
    return CorpusScore(nats, tokens, size, words)


def _groups(documents: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    characters = 0
    for text in documents:
        group.append(text)
        characters += len(text)
        if characters >= CHARACTERS_AT_ONCE:
            yield group
            group, characters = [], 0
    if group:
        yield group
