"""How unexpected is each word of a text, in bits: -log2 p(word | everything before it in the text).

    text     the            dogs                  bark
    tokens   ▁the           ▁dog     s            ▁bark
    bits     2.1            9.0      1.2          7.5

A word is more than its tokens: "dog" is the token ▁dog *and* the fact that no `s` follows. That fact is decided by
the next token, where the plain sum of bits charges it to the next word. The correction of Pimentel and Meister (2024,
"How to compute the probability of a word") and of Oh and Schuler (2024, "Leading whitespaces of language models'
subword vocabulary pose a confound") moves it back. With B the set of tokens that open a word or end the text,

    bits(word) = sum of its tokens' bits - log2 p(B | text up to the word's end) + log2 p(B | text before the word)

The last term is 0 for the first word, where a word must begin anyway. Both sums are given: `surprisal` is corrected.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from foundry_config.errors import DataError
from foundry_model.scoring import SpanScore, score_spans
from foundry_model.scoring_model import ScoringModel, open_for_scoring
from foundry_model.scoring_tokenizer import ScoringTokenizer, check_vocabulary, encode_texts, start_token
from foundry_model.stimuli import Region, Stimulus
from foundry_model.windows import Windowing
from foundry_model.word_boundaries import WordBoundaries, align, word_boundaries

Doubles = npt.NDArray[np.float64]
TEXTS_AT_ONCE = 1024


class TokenSurprisal(NamedTuple):
    """One token of a text."""

    token: int
    surface: bytes
    """Bytes that it stands for, leading space included; 0xFF, which is in no text, for an unknown one."""
    word: int
    """Word that it belongs to, counted from 0."""
    bits: float


class RegionSurprisal(NamedTuple):
    """One region (word) of a text. [bits]"""

    region: Region
    tokens: int
    surprisal: float
    uncorrected: float


class TextSurprisal(NamedTuple):
    """A text with the surprisal of all its tokens and regions."""

    stimulus: Stimulus
    tokens: list[TokenSurprisal]
    regions: list[RegionSurprisal]


def score_surprisal(
    model: nn.Module | ScoringModel,
    tokenizer: ScoringTokenizer,
    stimuli: Sequence[Stimulus],
    *,
    window: int | None = None,
    stride: int | None = None,
    start_id: int | None = None,
    unknown: str = "refuse",
    batch_tokens: int | None = None,
) -> Iterator[TextSurprisal]:
    """Yield the surprisal of every text, in order.

    Args:
        model: A causal model, or one already opened.
        tokenizer: The model's own.
        stimuli: Texts, see `stimuli`.
        window: Most tokens that the model sees at once. Default: its context. [tokens]
        stride: How far the window moves in a longer text. Default: half of it. [tokens]
        start_id: Token that every text starts from. Default: BOS, or EOS if there is none. [token id]
        unknown: `refuse` or `score` a word that the tokenizer cannot spell.
        batch_tokens: Most tokens that the model reads at once. [tokens]

    Raises:
        DataError: A word that the tokenizer cannot see; names file and line.
        ConfigError: A window or stride that does not fit the model.
    """
    if not isinstance(model, ScoringModel):
        with open_for_scoring(model) as scorer:
            yield from score_surprisal(
                scorer,
                tokenizer,
                stimuli,
                window=window,
                stride=stride,
                start_id=start_id,
                unknown=unknown,
                batch_tokens=batch_tokens,
            )
        return
    check_vocabulary(tokenizer, model.vocab_size, padded=True)
    windowing = Windowing(model.context, window=window, stride=stride)
    boundaries = word_boundaries(tokenizer)
    start = start_token(tokenizer) if start_id is None else start_id
    for first in range(0, len(stimuli), TEXTS_AT_ONCE):
        group = stimuli[first : first + TEXTS_AT_ONCE]
        texts = encode_texts(tokenizer, [" ".join(entry.words) for entry in group])
        owners = [
            _owners(entry, ids, boundaries, tokenizer.unk_id, unknown) for entry, ids in zip(group, texts, strict=True)
        ]
        windows = [windowing.spans((start, *ids)) for ids in texts]
        scores = iter(
            score_spans(
                model,
                [span for spans in windows for span in spans],
                boundary=boundaries.boundary,
                batch_tokens=batch_tokens,
            )
        )
        for entry, ids, owner, spans in zip(group, texts, owners, windows, strict=True):
            bits, inside = _joined([next(scores) for _ in spans])
            yield _text_surprisal(entry, ids, owner, boundaries, bits, inside)


def _owners(
    entry: Stimulus, ids: Sequence[int], boundaries: WordBoundaries, unk_id: int | None, unknown: str
) -> list[int]:
    owners = align(ids, entry.words, boundaries, where=entry.where)
    if unknown == "refuse" and unk_id is not None and unk_id in ids:
        word = entry.words[owners[list(ids).index(unk_id)]]
        raise DataError(
            f"{entry.where}: the word {word!r} has characters that the tokenizer does not know; train the tokenizer "
            "with byte_fallback, or ask for unknown 'score'"
        )
    return owners


def _joined(scores: Sequence[SpanScore]) -> tuple[Doubles, Doubles]:
    """Join the windows of a text: bits of each token [T], log2 p(B) before each and after the last [T + 1]."""
    nats = np.concatenate([score.logprobs for score in scores])
    inside = [score.boundary for score in scores if score.boundary is not None]
    masses = np.concatenate([*(mass[:-1] for mass in inside), inside[-1][-1:]])
    return -nats.astype(np.float64) / math.log(2), masses.astype(np.float64) / math.log(2)


def _text_surprisal(
    entry: Stimulus,
    ids: Sequence[int],
    owners: Sequence[int],
    boundaries: WordBoundaries,
    bits: Doubles,
    inside: Doubles,
) -> TextSurprisal:
    tokens = [
        TokenSurprisal(token, boundaries.surfaces[token], word, float(bit))
        for token, word, bit in zip(ids, owners, bits, strict=True)
    ]
    starts = [*np.searchsorted(owners, np.arange(len(entry.words))).tolist(), len(ids)]  # owners never fall
    regions: list[RegionSurprisal] = []
    word = 0
    for region in entry.regions:
        begin, end = starts[word], starts[word + len(region.words)]
        word += len(region.words)
        plain = float(bits[begin:end].sum())
        before = inside[begin] if begin and boundaries.opens[ids[begin]] else 0.0
        after = inside[end] if end == len(ids) or boundaries.opens[ids[end]] else 0.0
        regions.append(RegionSurprisal(region, end - begin, plain - float(after) + float(before), plain))
    return TextSurprisal(entry, tokens, regions)
