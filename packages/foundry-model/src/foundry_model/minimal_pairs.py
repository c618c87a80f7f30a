"""Which of two sentences does the model find more probable? Accuracy on minimal pairs, as BLiMP defines it.

    with open_for_scoring(model) as scorer:
        for file in paths:
            scored = score_pairs(scorer, tokenizer, read_pair_file(file))
            accuracies(scored)    -> [Accuracy(group='file', name='wh_island', measure='sum', n=1000, ...), ...]

A pair counts 1 if the good side scores higher, 0 if the bad one does, and 1/2 if both are equal (a tie; BLiMP itself
has a few pairs of two equal sentences). Two measures are kept apart: `sum`, the log-probability of all scored tokens,
which is BLiMP's own, and `per_token`, the same divided by their number, which does not favour the shorter side.
Intervals are Wilson's (1927) at 95 %: they stay inside [0, 1] and hold for few pairs and for accuracies near 0 or 1.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch import nn

from foundry_config.errors import DataError
from foundry_model.pair_files import Method, MinimalPair, PairFile, find_pair_files, read_pair_file
from foundry_model.prefix_trie import Span
from foundry_model.scoring import score_spans
from foundry_model.scoring_model import ScoringModel, open_for_scoring
from foundry_model.scoring_tokenizer import ScoringTokenizer, check_vocabulary, encode_texts, start_token

logger = logging.getLogger(__name__)

Measure = Literal["sum", "per_token"]
Group = Literal["file", "field", "term", "overall"]
Unknown = Literal["refuse", "score"]
PAIRS_AT_ONCE = 4096
Z_95 = 1.959963984540054


class SideScore(NamedTuple):
    """Log-probability of the scored part of one side. [nats]"""

    logprob: float
    tokens: int
    unknown: int
    """Scored tokens that the tokenizer could not spell."""

    def by(self, measure: Measure) -> float:
        """The score that a measure compares."""
        return self.logprob if measure == "sum" else self.logprob / self.tokens


class ScoredPair(NamedTuple):
    """A pair with the scores of both sides."""

    file: str
    pair: MinimalPair
    good: SideScore
    bad: SideScore

    def credit(self, measure: Measure) -> float:
        """1 if the good side scores higher, 1/2 for a tie, else 0."""
        good, bad = self.good.by(measure), self.bad.by(measure)
        return 0.5 if good == bad else float(good > bad)


class Accuracy(NamedTuple):
    """Share of pairs that a model gets right, over one group of pairs."""

    group: Group
    name: str
    """The file, field or linguistics term; empty for `overall`."""
    measure: Measure
    n: int
    correct: float
    """Number of pairs that are right, ties counted as one half."""
    ties: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The accuracy, from 0 to 1."""
        return self.correct / self.n


def score_pair_files(
    model: nn.Module | ScoringModel,
    tokenizer: ScoringTokenizer,
    paths: Sequence[str | Path],
    *,
    method: Method = "sentence",
    start_id: int | None = None,
    unknown: Unknown = "refuse",
    batch_tokens: int | None = None,
) -> Iterator[list[ScoredPair]]:
    """Score files and folders of minimal pairs, one file at a time.

    Args:
        model: A causal model, or one already opened.
        tokenizer: The model's own.
        paths: Files or folders, see `pair_files`.
        method: What of a pair is scored.
        start_id: Token that every text starts from. Default: BOS, or EOS if there is none. [token id]
        unknown: Whether a word that the tokenizer cannot spell is an error.
        batch_tokens: Most tokens that the model reads at once. [tokens]

    Yields:
        The scored pairs of each file, in the order of the file.

    Raises:
        DataError: A file or a pair that cannot be scored, or none that the method is made for; names file and line.
    """
    if not isinstance(model, ScoringModel):
        with open_for_scoring(model) as scorer:
            yield from score_pair_files(
                scorer,
                tokenizer,
                paths,
                method=method,
                start_id=start_id,
                unknown=unknown,
                batch_tokens=batch_tokens,
            )
        return
    scored_any, files = False, find_pair_files(paths)
    for path in files:
        pair_file = read_pair_file(path, method=method)
        if pair_file.left_out:
            logger.info("%s: %s of its pairs are not made for %s", path, f"{pair_file.left_out:,}", method)
        if pair_file.pairs:
            scored_any = True
            yield score_pairs(
                model, tokenizer, pair_file, start_id=start_id, unknown=unknown, batch_tokens=batch_tokens
            )
    if not scored_any:
        raise DataError(f"no pair for the method {method!r} in {', '.join(map(str, files[:5]))}; try method 'sentence'")


def score_pairs(
    model: nn.Module | ScoringModel,
    tokenizer: ScoringTokenizer,
    pair_file: PairFile,
    *,
    start_id: int | None = None,
    unknown: Unknown = "refuse",
    batch_tokens: int | None = None,
) -> list[ScoredPair]:
    """Score the pairs of one file; see `score_pair_files`."""
    if not isinstance(model, ScoringModel):
        with open_for_scoring(model) as scorer:
            return score_pairs(
                scorer, tokenizer, pair_file, start_id=start_id, unknown=unknown, batch_tokens=batch_tokens
            )
    check_vocabulary(tokenizer, model.vocab_size, padded=True)
    start = start_token(tokenizer) if start_id is None else start_id
    scored: list[ScoredPair] = []
    for first in range(0, len(pair_file.pairs), PAIRS_AT_ONCE):
        pairs = pair_file.pairs[first : first + PAIRS_AT_ONCE]
        spans = _spans(pairs, tokenizer, start, model.context, unknown)
        sides = [
            SideScore(
                float(np.sum(score.logprobs, dtype=np.float64)),
                len(score.logprobs),
                list(span.tokens[span.first :]).count(tokenizer.unk_id) if tokenizer.unk_id is not None else 0,
            )
            for span, score in zip(spans, score_spans(model, spans, batch_tokens=batch_tokens), strict=True)
        ]
        scored += map(ScoredPair, [pair_file.name] * len(pairs), pairs, sides[::2], sides[1::2])
    return scored


def accuracies(scored: Iterable[ScoredPair]) -> list[Accuracy]:
    """Return the accuracy of every file, field and linguistics term, and of all pairs together, by both measures."""
    pairs = list(scored)
    groups: dict[tuple[Group, str], list[ScoredPair]] = {}
    for entry in pairs:
        for key in _groups_of(entry):
            groups.setdefault(key, []).append(entry)
    ordered = sorted(groups.items(), key=lambda item: (GROUPS.index(item[0][0]), item[0][1]))
    found = [accuracy(group, name, measure, members) for (group, name), members in ordered for measure in MEASURES]
    return found + [accuracy("overall", "", measure, pairs) for measure in MEASURES if pairs]


def accuracy(group: Group, name: str, measure: Measure, scored: Sequence[ScoredPair]) -> Accuracy:
    """Return the accuracy over some pairs, at least one."""
    each = [entry.credit(measure) for entry in scored]
    correct = sum(each)
    return Accuracy(group, name, measure, len(each), correct, each.count(0.5), *wilson(correct, len(each)))


def _groups_of(entry: ScoredPair) -> list[tuple[Group, str]]:
    names: list[tuple[Group, str]] = [("file", entry.file), ("field", entry.pair.field), ("term", entry.pair.term)]
    return [(group, name) for group, name in names if name]


def wilson(correct: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Return the interval of Wilson (1927, JASA 22:209) for a share of `correct` in `n` trials.

    Args:
        correct: From 0 to n; halves (ties) are taken as they are.
        n: At least 1.
        z: Quantile of the normal distribution; the default gives 95 %.

    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (centre - half if correct else 0.0), (centre + half if correct < n else 1.0)


def _spans(
    pairs: Sequence[MinimalPair], tokenizer: ScoringTokenizer, start: int, context: int | None, unknown: Unknown
) -> list[Span]:
    """Good and bad side of every pair, in turn, with what comes before the scored part marked as read only."""
    sides = [side for pair in pairs for side in (pair.good, pair.bad)]
    texts = encode_texts(tokenizer, [side.text for side in sides])
    prefixed = [index for index, side in enumerate(sides) if side.prefix]
    prefixes = dict(zip(prefixed, encode_texts(tokenizer, [sides[i].prefix for i in prefixed]), strict=True))
    spans = [Span((start, *ids), 1 + _shared(ids, prefixes.get(index, ()))) for index, ids in enumerate(texts)]
    for pair, good, bad in zip(pairs, spans[::2], spans[1::2], strict=True):
        _check_pair(pair, good, bad, tokenizer.unk_id, unknown)
    if context is not None:
        _check_lengths(pairs, spans, context)
    return spans


def _shared(ids: tuple[int, ...], prefix: tuple[int, ...]) -> int:
    """Tokens that belong to the prefix alone; one that reaches into the scored word counts as the word's."""
    count = 0
    while count < min(len(ids), len(prefix)) and ids[count] == prefix[count]:
        count += 1
    return count


def _check_lengths(pairs: Sequence[MinimalPair], spans: Sequence[Span], context: int) -> None:
    read = [len(span.tokens) - 1 for span in spans]
    too_long = [number for number in range(len(pairs)) if max(read[2 * number : 2 * number + 2]) > context]
    if too_long:
        first = pairs[too_long[0]]
        side = max(range(2 * too_long[0], 2 * too_long[0] + 2), key=read.__getitem__)
        others = f", and so for {len(too_long) - 1:,} more of {len(pairs):,} pairs" if len(too_long) > 1 else ""
        raise DataError(
            f"{first.where}: {read[side]:,} tokens with the one it starts from, but the model reads {context:,}{others}"
            f": {(first.bad if side % 2 else first.good).text[:60]!r}; leave what is too long out of the file"
        )


def _check_pair(pair: MinimalPair, good: Span, bad: Span, unk_id: int | None, unknown: Unknown) -> None:
    for side, span in ((pair.good, good), (pair.bad, bad)):
        if span.first >= len(span.tokens):
            raise DataError(f"{pair.where}: the tokenizer sees nothing in {side.scored!r}")
        if unknown == "refuse" and unk_id is not None and unk_id in span.tokens[span.first :]:
            raise DataError(
                f"{pair.where}: {side.scored!r} has characters that the tokenizer does not know, so its score means "
                "little; train the tokenizer with byte_fallback, or ask for unknown 'score'"
            )
    if unknown == "refuse" and good.tokens == bad.tokens and pair.good.text != pair.bad.text:
        raise DataError(
            f"{pair.where}: the tokenizer cannot tell {pair.good.text!r} from {pair.bad.text!r}: "
            "both get the same tokens"
        )


MEASURES: tuple[Measure, ...] = ("sum", "per_token")
GROUPS: tuple[Group, ...] = ("file", "field", "term", "overall")
