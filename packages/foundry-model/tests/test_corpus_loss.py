"""The loss of a corpus: by hand for a bigram model, and every token exactly once in a sliding window."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config.errors import ConfigError, DataError
from foundry_model.corpus_loss import CorpusScore, PlacedText, score_corpus
from foundry_model.windows import Windowing

PIECES = [" a", " b", "é"]


@pytest.fixture
def tokenizer(toy_tokenizer):
    return toy_tokenizer(PIECES)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 60), st.integers(2, 20), st.integers(1, 19))
def test_every_token_but_the_first_is_scored_once_with_the_context_that_the_stride_leaves(length, window, stride):
    tokens = tuple(range(length))
    windowing = Windowing(20, window=window, stride=min(stride, window - 1))

    spans = windowing.spans(tokens)

    assert [token for span in spans for token in span.tokens[span.first :]] == list(tokens[1:])
    for span in spans:
        assert len(span.tokens) <= window
        assert span.tokens == tuple(range(span.tokens[0], span.tokens[-1] + 1))
        assert span.first >= window - windowing.stride or span.tokens[0] == 0


def test_defaults_are_the_context_and_half_of_it():
    assert vars(Windowing(128)) == {"window": 128, "stride": 64}
    assert vars(Windowing(None)) == {"window": 4096, "stride": 2048}
    with pytest.raises(ConfigError, match="window 129: must be from 2 to the model's context, 128 tokens"):
        Windowing(128, window=129)


def test_a_corpus_under_a_uniform_model_costs_the_logarithm_of_the_vocabulary(tokenizer, bigram):
    size = tokenizer.vocab_size
    texts = ["a b", "aé", "", "b"]  # 2, 2, 0 and 1 tokens

    score = score_corpus(bigram(torch.full((size, size), 1 / size)), tokenizer, iter(texts))

    assert (score.tokens, score.bytes, score.words) == (5, 7, 4)
    assert score.loss == pytest.approx(math.log(size), abs=1e-6)
    assert score.perplexity == pytest.approx(size, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(5 * math.log2(size) / 7, rel=1e-5)
    assert score.bits_per_word == pytest.approx(5 * math.log2(size) / 4, rel=1e-5)


def test_each_document_starts_anew(tokenizer, bigram, probabilities):
    table = probabilities(7, {(2, 4): 0.5, (4, 5): 0.25})

    score = score_corpus(bigram(table), tokenizer, ["a b", "a"])

    assert score.nats == pytest.approx(-math.log(0.5 * 0.25 * 0.5), abs=1e-5)


def test_windows_and_groups_do_not_change_what_a_short_memory_predicts(tokenizer, bigram, monkeypatch):
    torch.manual_seed(0)
    model = bigram(torch.randn(7, 7).softmax(-1))
    texts = ["a b b a b a aé b", "b b", "aééé"]

    whole = score_corpus(model, tokenizer, texts)
    monkeypatch.setattr("foundry_model.corpus_loss.CHARACTERS_AT_ONCE", 3)
    cut = score_corpus(model, tokenizer, texts, window=3, stride=1)

    assert cut.nats == pytest.approx(whole.nats, abs=1e-5)
    assert cut.tokens == whole.tokens


def test_a_longer_window_uses_more_context(tokenizer, tiny_attention):
    torch.manual_seed(0)
    model = tiny_attention(tokenizer.vocab_size, context=32)
    texts = ["a b b a" + " a b b a" * 19]

    losses = {stride: score_corpus(model, tokenizer, texts, stride=stride).loss for stride in (1, 16, 31)}

    assert len(set(losses.values())) == 3


def test_text_that_the_tokenizer_cannot_spell_is_refused_by_document_and_word(tokenizer, bigram):
    model = bigram(torch.full((7, 7), 1 / 7))

    with pytest.raises(DataError, match=r"document 2: the tokenizer cannot spell 'bz', .* or ask for unknown 'score'"):
        score_corpus(model, tokenizer, ["a b", "a b bz"])
    with pytest.raises(DataError, match=r"c\.txt:9: the tokenizer cannot spell '\\n',"):
        score_corpus(model, tokenizer, [PlacedText("a\n b", "c.txt:9")])

    score = score_corpus(model, tokenizer, ["a b", "a b bz"], unknown="score")
    assert (score.tokens, score.unknown) == (6, 1)


def test_a_corpus_without_tokens_is_refused(tokenizer, bigram):
    with pytest.raises(ValueError, match="no token to score"):
        score_corpus(bigram(torch.ones(7, 7) / 7), tokenizer, [])


def test_measures_that_are_not_known_are_left_out_and_huge_ones_stay_numbers():
    assert CorpusScore(nats=8.0, tokens=4).values() == {"loss": 2.0, "perplexity": math.exp(2.0)}
    assert CorpusScore(nats=1e6, tokens=1).perplexity == math.inf
