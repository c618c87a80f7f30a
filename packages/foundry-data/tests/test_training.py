"""Training a tokenizer: nothing is silently left out, and every refusal says what would fit."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config import names
from foundry_config.errors import ConfigError, DataError
from foundry_data import sentencepiece_training
from foundry_data.documents import Document
from foundry_data.sentencepiece_training import TrainingSettings, train_tokenizer
from foundry_data.training_lines import MAX_LINE_BYTES, TrainingReport, sample_in_order, split_line, training_lines

WORDS = ["the cat sat on the mat", "forty dogs ran round the house"]
SIZE = 278  # fits two short lines: 260 special tokens and bytes, their letters, a few pieces


@given(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), st.integers(4, 50))
def test_a_split_line_keeps_every_character_and_every_part_fits(line, limit):
    parts = list(split_line(line, limit=limit))

    assert "".join(parts) == line
    assert all(len(part.encode()) <= limit for part in parts)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_training_lines_keep_every_character_but_line_breaks_and_the_reserved_mark(documents):
    report = TrainingReport()

    lines = list(training_lines(documents, report))

    def visible(text):
        return [c for c in text if not c.isspace() and c != "\u2585"]

    assert [c for line in lines for c in visible(line)] == [c for text in documents for c in visible(text)]
    assert report.documents == len(documents)
    assert report.lines == len(lines)
    assert report.bytes == sum(len(line.encode()) for line in lines)


def test_long_lines_are_split_and_counted():
    report = TrainingReport()

    lines = list(training_lines(["word " * 2000, "short", "é" * 3000], report))

    assert max(len(line.encode()) for line in lines) <= MAX_LINE_BYTES
    assert report.split_lines == 2


def test_a_word_that_stands_only_in_a_long_line_is_learned():
    tokenizer = train_tokenizer([*WORDS, "zebraqux " * 4000], vocab_size=300, model_type="bpe")

    assert [tokenizer.token_text(i) for i in tokenizer.encode("zebraqux")] == ["▁zebraqux"]


@pytest.mark.parametrize("mark", ["\u2585", "\x00", "\t", "\u2581", "\r"])
def test_a_word_beside_a_mark_of_sentencepiece_is_learned(mark):
    tokenizer = train_tokenizer([*WORDS, *[f"zebra{mark} zebraqux"] * 500], vocab_size=310, model_type="bpe")

    assert [tokenizer.token_text(i) for i in tokenizer.encode("zebraqux")] == ["▁zebraqux"]


def test_training_twice_gives_the_same_tokenizer():
    one, two = (train_tokenizer((Document(w, "x") for w in WORDS), vocab_size=SIZE) for _ in range(2))

    assert one.fingerprint == two.fingerprint
    assert one.model_bytes == two.model_bytes


def test_another_setting_gives_another_fingerprint():
    one, two = (train_tokenizer(WORDS, vocab_size=SIZE, add_dummy_prefix=prefix) for prefix in (True, False))

    assert one.fingerprint != two.fingerprint


def test_the_report_counts_what_was_seen():
    report = TrainingReport()
    seen = []

    train_tokenizer(WORDS, vocab_size=SIZE, report=report, progress=seen.append)

    assert (report.documents, report.lines, report.bytes) == (2, 2, sum(map(len, WORDS)))
    assert seen[-1] == report.bytes


def test_the_progress_tells_all_bytes_even_if_the_training_ends_before_the_first_look(monkeypatch):
    class Quick(threading.Thread):
        def start(self):
            super().start()
            self.join()

    monkeypatch.setattr(threading, "Thread", Quick)
    seen = []

    train_tokenizer(WORDS, vocab_size=SIZE, progress=seen.append)

    assert seen == [sum(map(len, WORDS))]


@pytest.mark.parametrize("documents", [[], ["", " \n\t\n"]])
def test_a_corpus_without_text_is_refused(documents):
    with pytest.raises(DataError, match="there is no text"):
        train_tokenizer(documents, vocab_size=300)


@pytest.mark.parametrize("model_type", ["unigram", "bpe", "char"])
def test_a_vocabulary_too_large_for_the_corpus_is_refused_with_the_largest_possible(model_type):
    with pytest.raises(DataError, match=r"at most (\d+) pieces") as refusal:
        train_tokenizer(WORDS, vocab_size=5000, model_type=model_type)

    possible = int(str(refusal.value).split("yields at most ")[1].split()[0])
    assert train_tokenizer(WORDS, vocab_size=possible, model_type=model_type).vocab_size == possible


@pytest.mark.slow
def test_a_vocabulary_of_billions_is_refused_at_once():
    with pytest.raises(DataError, match=r"vocab_size is 2,147,483,647, .* at most \d+ pieces"):
        train_tokenizer(WORDS, vocab_size=2**31 - 1)


def test_the_least_vocabulary_of_a_char_model_counts_the_line_break():
    with pytest.raises(DataError, match="at least 261"):
        train_tokenizer(WORDS, vocab_size=10, model_type="char", whitespace_pieces=True)

    assert train_tokenizer(WORDS, vocab_size=261, model_type="char", whitespace_pieces=True).vocab_size == 261


@pytest.mark.parametrize("model_type", ["unigram", "bpe", "char"])
def test_a_vocabulary_too_small_for_the_characters_is_refused_with_the_least_needed(model_type):
    with pytest.raises(DataError, match=r"at least (\d+)") as refusal:
        train_tokenizer(WORDS, vocab_size=10, model_type=model_type)

    least = int(str(refusal.value).split("at least ")[1].split()[0])
    assert train_tokenizer(WORDS, vocab_size=least, model_type=model_type).vocab_size == least


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "unigramm"),
        ("vocab_size", 3),
        ("user_defined_symbols", ("a b",)),
        ("user_defined_symbols", ("<s>",)),
        ("user_defined_symbols", ("x", "<0x41>")),
        ("character_coverage", 0.5),
    ],
)
def test_an_impossible_setting_is_refused(field, value):
    with pytest.raises(ConfigError, match=f"tokenizer.{field}"):
        TrainingSettings(**{"vocab_size": 300, field: value})


def test_what_the_documents_raise_ends_the_training():
    def documents():
        yield WORDS[0]
        raise DataError("file 7 is damaged")

    with pytest.raises(DataError, match="file 7"):
        train_tokenizer(documents(), vocab_size=300)


def test_what_the_progress_raises_ends_the_wait_while_training_goes_on(monkeypatch):
    monkeypatch.setattr(sentencepiece_training, "POLL_SECONDS", 0.001)
    started, hold = threading.Event(), threading.Event()

    def documents():
        started.set()
        hold.wait(timeout=30)
        yield from WORDS

    def interrupt(done):
        if started.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(documents(), vocab_size=300, progress=interrupt)
    hold.set()


def test_sampling_is_seeded_and_keeps_the_order():
    lines = [f"line {i:04d}" for i in range(500)]

    drawn = sample_in_order(lines, 50, seed=1)

    assert len(set(drawn)) == 50
    assert drawn == sorted(drawn) == sample_in_order(lines, 50, seed=1)
    assert drawn != sample_in_order(lines, 50, seed=2)
    assert sample_in_order(lines, 1000, seed=1) == lines


def test_training_on_a_sample_counts_it():
    report = TrainingReport()

    train_tokenizer(WORDS * 50, vocab_size=SIZE, max_training_sentences=10, report=report)

    assert report.sampled_lines == 10


def test_the_rules_of_configs_know_the_special_tokens():
    assert names.SPECIAL_TEXTS == sentencepiece_training.SPECIAL_TEXTS
