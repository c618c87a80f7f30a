"""What can be measured on a checkpoint: minimal pairs, surprisal, and the loss of a corpus, cut into units of work.

    Suites(minimal_pairs=("blimp/",), corpus="dev.txt")
    -> Unit(minimal_pairs, adjunct_island)  Unit(minimal_pairs, anaphor_gender_agreement) ...  Unit(corpus, dev)

A unit is computed as a whole and kept; the same unit on the same weights is never computed again. All inputs are read
once before the first model is loaded, so that a broken line is known at once.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec

from foundry_config.errors import ConfigError, DataError
from foundry_data import fs, read_documents
from foundry_data.tokenizer import Tokenizer
from foundry_model.corpus_loss import PlacedText, score_corpus
from foundry_model.minimal_pairs import MEASURES, ScoredPair, accuracies, score_pairs
from foundry_model.pair_files import Method, find_pair_files, read_pair_file
from foundry_model.scoring_model import ScoringModel
from foundry_model.stimuli import read_stimuli
from foundry_model.surprisal import TextSurprisal, score_surprisal
from foundry_model.windows import Windowing
from foundry_train.evaluation_cache import Count

TOKEN_COLUMNS = ("text_number", "position", "word_position", "token_id", "token", "surprisal")
WORD_COLUMNS = ("text_number", "position", "region", "tokens", "surprisal", "surprisal_uncorrected")


class Suites(msgspec.Struct, frozen=True, kw_only=True):
    """What to evaluate. The inputs are paths; nothing is read before `units_of`."""

    minimal_pairs: tuple[str, ...] = ()
    """Files and folders of minimal pairs."""
    method: Method = "sentence"
    """What of a pair is scored: the sentences, or a word after one or two prefixes."""
    surprisal: str | None = None
    """File of sentences, or table of words or regions."""
    corpus: str | None = None
    """Text to compute the loss of: anything that `data.source_corpus` takes."""
    text_documents: Literal["file", "line", "paragraph"] = "file"
    """What one document of a .txt file of the corpus is."""
    text_field: str = "text"
    """Field or column of the corpus that holds the text."""
    window: int | None = None
    """Most tokens that the model sees at once, for surprisal and corpus. Default: its context. [tokens]"""
    stride: int | None = None
    """How far the window moves in a longer text. Default: half of it. [tokens]"""
    unknown: Literal["refuse", "score"] = "refuse"
    """What to do with words that the tokenizer cannot spell."""
    batch_tokens: int | None = None
    """Most tokens that the model reads at once: a matter of memory only. [tokens]"""


class Computed(NamedTuple):
    """The outcome of a unit."""

    values: dict[str, float]
    details: dict[str, Any]
    """What the numbers are over."""
    counts: Sequence[Count] = ()
    tables: Mapping[str, Iterable[bytes]] = MappingProxyType({})


class Unit(NamedTuple):
    """One piece of work on one checkpoint."""

    suite: str
    name: str
    settings: dict[str, Any]
    """All that decides the numbers besides the model: choices, and digests of the inputs."""
    compute: Callable[[ScoringModel, Tokenizer, int], Computed]
    """Called with the model, its tokenizer and the id of the start token."""


def units_of(suites: Suites) -> list[Unit]:
    """Read and check all inputs, and return the work that there is on each checkpoint.

    Raises:
        DataError: An input that is missing or damaged; names file and line.
        ConfigError: Nothing is asked for.
    """
    units = list(_pair_units(suites)) if suites.minimal_pairs else []
    if suites.surprisal is not None:
        units.append(_surprisal_unit(Path(suites.surprisal), suites))
    if suites.corpus is not None:
        units.append(_corpus_unit(suites.corpus, suites))
    if not units:
        raise ConfigError("nothing to evaluate: give minimal pairs, a file for surprisal, or a corpus")
    return units


def _pair_units(suites: Suites) -> Iterator[Unit]:
    found = False
    for path in find_pair_files(suites.minimal_pairs):
        if not read_pair_file(path, method=suites.method).pairs:
            continue
        found = True
        settings = {"method": suites.method, "unknown": suites.unknown, "input": fs.sha256_file(path)}
        yield Unit("minimal_pairs", path.stem, settings, _pairs_of(path, suites))
    if not found:
        raise DataError(f"no minimal pair is made for the method {suites.method!r}; try 'sentence'")


def _pairs_of(path: Path, suites: Suites) -> Callable[[ScoringModel, Tokenizer, int], Computed]:
    def compute(scorer: ScoringModel, tokenizer: Tokenizer, start_id: int) -> Computed:
        scored = score_pairs(
            scorer,
            tokenizer,
            read_pair_file(path, method=suites.method),
            start_id=start_id,
            unknown=suites.unknown,
            batch_tokens=suites.batch_tokens,
        )
        found = accuracies(scored)
        values = {entry.measure: entry.value for entry in found if entry.group == "file"}
        counts = [Count(e.group, e.name, e.measure, e.n, e.correct, e.ties) for e in found]
        unknown = sum(entry.good.unknown + entry.bad.unknown for entry in scored)
        details = {"pairs": len(scored), "unknown_tokens": unknown}
        return Computed(values, details, counts, {"pairs.csv": _pair_rows(scored)})

    return compute


def _surprisal_unit(path: Path, suites: Suites) -> Unit:
    read_stimuli(path)
    settings = {
        "window": suites.window,
        "stride": suites.stride,
        "unknown": suites.unknown,
        "unit": "bits",
        "input": fs.sha256_file(path),
    }

    def compute(scorer: ScoringModel, tokenizer: Tokenizer, start_id: int) -> Computed:
        texts = list(
            score_surprisal(
                scorer,
                tokenizer,
                read_stimuli(path),
                window=suites.window,
                stride=suites.stride,
                start_id=start_id,
                unknown=suites.unknown,
                batch_tokens=suites.batch_tokens,
            )
        )
        tables = {"words.csv": _word_rows(texts), "tokens.csv": _token_rows(texts)}
        details = {"texts": len(texts), **_window(scorer, suites)}
        return Computed(_means(texts), details, tables=tables)

    return Unit("surprisal", path.stem, settings, compute)


def _corpus_unit(source: str, suites: Suites) -> Unit:
    def documents() -> Any:
        return read_documents(source, text_documents=suites.text_documents, text_field=suites.text_field)

    settings = {
        "window": suites.window,
        "stride": suites.stride,
        "text_documents": suites.text_documents,
        "text_field": suites.text_field,
        "unknown": suites.unknown,
        "input": documents().fingerprint(),
    }

    def compute(scorer: ScoringModel, tokenizer: Tokenizer, start_id: int) -> Computed:
        score = score_corpus(
            scorer,
            tokenizer,
            (PlacedText(document.text, document.source) for document in documents()),
            window=suites.window,
            stride=suites.stride,
            start_id=start_id,
            unknown=suites.unknown,
            batch_tokens=suites.batch_tokens,
        )
        sizes = {"tokens": score.tokens, "bytes": score.bytes, "words": score.words, "unknown_tokens": score.unknown}
        return Computed(score.values(), {**sizes, **_window(scorer, suites)})

    return Unit("corpus", Path(source).stem or source, settings, compute)


def _window(scorer: ScoringModel, suites: Suites) -> dict[str, int]:
    return vars(Windowing(scorer.context, window=suites.window, stride=suites.stride))


def _means(texts: list[TextSurprisal]) -> dict[str, float]:
    """Mean bits over all tokens and over all regions (words) of a file."""
    tokens = [token.bits for text in texts for token in text.tokens]
    regions = [region for text in texts for region in text.regions]
    return {
        "bits_per_token": sum(tokens) / len(tokens),
        "bits_per_word": sum(region.surprisal for region in regions) / sum(len(r.region.words) for r in regions),
    }


def _pair_rows(scored: list[ScoredPair]) -> Iterator[bytes]:
    yield _csv_line(
        ["file", "pair_id", "field", "term", "good", "bad"]
        + [f"{side}_{what}" for side in ("good", "bad") for what in ("logprob", "tokens", "per_token")]
        + [f"correct_{measure}" for measure in MEASURES]
    )
    for entry in scored:
        pair = entry.pair
        scores = [
            value for side in (entry.good, entry.bad) for value in (side.logprob, side.tokens, side.by("per_token"))
        ]
        credit = [entry.credit(measure) for measure in MEASURES]
        yield _csv_line(
            [entry.file, pair.pair_id, pair.field, pair.term, pair.good.text, pair.bad.text, *scores, *credit]
        )


def _word_rows(texts: list[TextSurprisal]) -> Iterator[bytes]:
    carried = list(dict.fromkeys(name for text in texts for r in text.regions for name in r.region.columns))
    yield _csv_line([*WORD_COLUMNS, *(f"{name}_input" if name in WORD_COLUMNS else name for name in carried)])
    for text in texts:
        for position, found in enumerate(text.regions):
            own = [text.stimulus.number, position, found.region.text, found.tokens, found.surprisal, found.uncorrected]
            yield _csv_line([*own, *(found.region.columns.get(name, "") for name in carried)])


def _token_rows(texts: list[TextSurprisal]) -> Iterator[bytes]:
    yield _csv_line(TOKEN_COLUMNS)
    for text in texts:
        for position, token in enumerate(text.tokens):
            surface = token.surface.decode("utf-8", "replace")
            yield _csv_line([text.stimulus.number, position, token.word, token.token, surface, token.bits])


def _csv_line(values: Iterable[Any]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue().encode()
