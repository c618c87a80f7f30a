"""Train a SentencePiece tokenizer on documents.

    tokenizer = train_tokenizer(["the cat sat", "on the mat"], vocab_size=300)
    tokenizer.encode("the mat")

The special ids are fixed: pad 0, unk 1, bos 2, eos 3. Training runs in a thread of its own, so that Ctrl-C and the
`progress` callback can end the wait at any moment.
"""

import io
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import msgspec
import sentencepiece

from foundry_config.errors import ConfigError, DataError
from foundry_config.lookup import did_you_mean
from foundry_data.documents import Document
from foundry_data.sentencepiece_model import with_exact_scores
from foundry_data.sentencepiece_tokenizer import SentencePieceTokenizer
from foundry_data.training_lines import MAX_LINE_BYTES, TrainingReport, sample_in_order, training_lines

logger = logging.getLogger(__name__)

MODEL_TYPES = ("unigram", "bpe", "char")
SPECIAL_TEXTS = ("<pad>", "<unk>", "<s>", "</s>")  # as the rules of foundry_config have them (a test)
SPECIAL_TOKENS = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
LEAST_COVERAGE = 0.98  # SentencePiece takes no less
MOST_PIECES = 10**7  # SentencePiece takes a minute to refuse 2**31; no corpus yields so many
POLL_SECONDS = 0.1

Progress = Callable[[int], None]


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides a trained tokenizer, together with the text. The fields are those of `tokenizer` in a config."""

    vocab_size: int
    model_type: Literal["unigram", "bpe", "char"] = "unigram"
    normalization: str = "identity"
    byte_fallback: bool = True
    character_coverage: float = 0.9995
    split_digits: bool = False
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = False
    whitespace_pieces: bool = False
    user_defined_symbols: tuple[str, ...] = ()
    max_training_sentences: int = 0
    num_threads: int = 1
    seed: int = 42

    def __post_init__(self) -> None:
        if self.model_type not in MODEL_TYPES:
            hint = did_you_mean(self.model_type, MODEL_TYPES)
            raise ConfigError(
                f"tokenizer.model_type: unknown choice {self.model_type!r}.{hint} Known: {', '.join(MODEL_TYPES)}"
            )
        if self.vocab_size < 8:
            raise ConfigError(f"tokenizer.vocab_size is {self.vocab_size}; it must be at least 8")
        if spaced := [symbol for symbol in self.user_defined_symbols if " " in symbol or not symbol]:
            raise ConfigError(
                f"tokenizer.user_defined_symbols: {spaced[0]!r} has a space or is empty; SentencePiece never matches it"
            )
        if taken := [symbol for symbol in self.user_defined_symbols if self._is_taken(symbol)]:
            raise ConfigError(
                f"tokenizer.user_defined_symbols: {taken[0]!r} is a piece of every vocabulary already; leave it out"
            )
        if not LEAST_COVERAGE <= self.character_coverage <= 1:
            raise ConfigError(
                f"tokenizer.character_coverage is {self.character_coverage}; SentencePiece takes {LEAST_COVERAGE} to 1"
            )

    def _is_taken(self, symbol: str) -> bool:
        is_byte = self.byte_fallback and re.fullmatch(r"<0x[0-9A-F]{2}>", symbol) is not None
        return symbol in SPECIAL_TEXTS or is_byte


def train_tokenizer(
    documents: Iterable[str | Document],
    settings: TrainingSettings | None = None,
    *,
    report: TrainingReport | None = None,
    progress: Progress | None = None,
    **fields: Any,
) -> SentencePieceTokenizer:
    """Train a SentencePiece model on all lines of `documents`.

    Args:
        documents: Texts; read once, in order.
        settings: How to train; or give its fields by name: `vocab_size=8000, model_type="bpe"`.
        report: Receives the counts.
        progress: Called with the bytes read so far, about ten times a second and at the end, from the calling thread;
            what it raises ends the training.

    Raises:
        DataError: There is no text, or the vocabulary size does not fit the text; the message says what would fit.
        ConfigError: A setting that is out of range.
    """
    settings = settings or TrainingSettings(**fields)
    report = report if report is not None else TrainingReport()
    model = _run_in_thread(lambda stop: _train(documents, settings, report, stop), settings, report, progress)
    tokenizer = SentencePieceTokenizer(model, name="the trained tokenizer")
    if tokenizer.vocab_size != settings.vocab_size:  # a char model takes what there is
        raise _too_large(settings.vocab_size, tokenizer.vocab_size)
    logger.info(
        "trained a %s tokenizer with %s pieces on %s lines, %s bytes (%s long lines split)",
        settings.model_type, f"{tokenizer.vocab_size:,}", f"{report.lines:,}", f"{report.bytes:,}", report.split_lines,
    )  # fmt: skip
    return tokenizer


def _train(
    documents: Iterable[str | Document], settings: TrainingSettings, report: TrainingReport, stop: threading.Event
) -> bytes:
    failure: list[BaseException] = []
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(documents, settings, report, stop, failure),
            model_writer=model,
            minloglevel=2,
            **_trainer_options(settings),
        )
    except RuntimeError:
        if failure:  # SentencePiece turned an error of the documents into text
            raise failure[0] from None
        raise
    return with_exact_scores(model.getvalue())


def _trainer_options(settings: TrainingSettings) -> dict[str, Any]:
    """The settings under the names of SentencePiece's trainer."""
    return {
        "vocab_size": min(settings.vocab_size, MOST_PIECES),
        "model_type": settings.model_type,
        "normalization_rule_name": settings.normalization,
        "byte_fallback": settings.byte_fallback,
        "character_coverage": settings.character_coverage,
        "split_digits": settings.split_digits,
        "add_dummy_prefix": settings.add_dummy_prefix,
        "remove_extra_whitespaces": settings.remove_extra_whitespaces,
        "allow_whitespace_only_pieces": settings.whitespace_pieces,
        "user_defined_symbols": _symbols(settings),
        "num_threads": settings.num_threads,
        "max_sentence_length": MAX_LINE_BYTES,
        "input_sentence_size": 0,  # SentencePiece's own sampling cannot be seeded per call
        **SPECIAL_TOKENS,
    }


def _symbols(settings: TrainingSettings) -> list[str]:
    symbols = list(settings.user_defined_symbols)
    return [*symbols, "\n"] if settings.whitespace_pieces and "\n" not in symbols else symbols


def _lines(
    documents: Iterable[str | Document],
    settings: TrainingSettings,
    report: TrainingReport,
    stop: threading.Event,
    failure: list[BaseException],
) -> Iterator[str]:
    """Yield the training lines, until `stop`; remember what the documents raise."""
    try:
        lines: Iterable[str] = training_lines(documents, report)
        if settings.max_training_sentences:
            lines = sample_in_order(lines, settings.max_training_sentences, seed=settings.seed)
            report.sampled_lines = len(lines)
        for line in lines:
            if stop.is_set():
                raise InterruptedError("nobody waits for the tokenizer any more")
            yield line
        report.all_read = True
    except BaseException as error:
        failure.append(error)
        raise


def _run_in_thread(
    train: Callable[[threading.Event], bytes],
    settings: TrainingSettings,
    report: TrainingReport,
    progress: Progress | None,
) -> bytes:
    stop, models, failures = threading.Event(), list[bytes](), list[BaseException]()

    def work() -> None:
        try:
            models.append(train(stop))
        except BaseException as error:  # handed to the waiting thread, whatever it is
            failures.append(error)

    thread = threading.Thread(target=work, name="train-tokenizer", daemon=True)
    thread.start()
    try:
        ended = False
        while not ended:
            thread.join(POLL_SECONDS)
            ended = not thread.is_alive()  # asked before the count is read, so that the last call tells all bytes
            if progress is not None:
                progress(report.bytes)
    finally:
        stop.set()
    if failures:
        raise _explain(failures[0], settings, report)
    return models[0]


def _explain(error: BaseException, settings: TrainingSettings, report: TrainingReport) -> BaseException:
    """Return what a user can act on for an error of SentencePiece; other errors stay what they are."""
    if not isinstance(error, RuntimeError):
        return error
    text = str(error)
    if report.lines == 0:
        return DataError(f"cannot train a tokenizer: there is no text in {report.documents:,} documents")
    if match := re.search(r"Vocabulary size too high \(\d+\).*value <= (\d+)", text):
        return _too_large(settings.vocab_size, int(match[1]))
    needed = re.search(r"smaller than required_chars. \d+ vs (\d+)", text)
    if needed or "char_model_trainer" in text:
        least = int(needed[1]) if needed else 260 + len(_symbols(settings))
        return DataError(
            f"tokenizer.vocab_size is {settings.vocab_size:,}, but the special tokens, bytes and characters of this "
            f"corpus alone need {least:,}; set tokenizer.vocab_size to at least {least:,}"
            " or lower tokenizer.character_coverage"
        )
    return DataError(f"SentencePiece could not train a tokenizer: {text}")


def _too_large(asked: int, possible: int) -> DataError:
    return DataError(
        f"tokenizer.vocab_size is {asked:,}, but this corpus yields at most {possible:,} pieces; "
        f"set tokenizer.vocab_size to {possible:,} or less, or use more text"
    )
