"""Word surprisal against arithmetic by hand, and the alignment of words and tokens."""

import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_config.errors import ConfigError, DataError
from foundry_model.stimuli import Region, Stimulus, stimulus
from foundry_model.surprisal import score_surprisal
from foundry_model.word_boundaries import align, word_boundaries

PIECES = [" dog", " cat", "s", " bark", "\n", " "]


@pytest.fixture
def tokenizer(toy_tokenizer):
    return toy_tokenizer(PIECES)


def random_bigram(bigram, size, seed=0):
    torch.manual_seed(seed)
    return bigram(torch.randn(size, size).softmax(-1))


def test_a_bigram_model_gives_the_surprisal_that_arithmetic_gives(tokenizer, bigram):
    model = random_bigram(bigram, tokenizer.vocab_size)
    p = model.table.detach().exp().double()
    opens = [2, 3, 4, 5, 7, 8, 9]  # BOS, EOS, and what begins with whitespace
    inside = p[:, opens].sum(-1)

    (text,) = score_surprisal(model, tokenizer, [stimulus("dogs bark")])

    bits = [-math.log2(p[2, 4]), -math.log2(p[4, 6]), -math.log2(p[6, 7])]
    assert [token.bits for token in text.tokens] == pytest.approx(bits, abs=1e-5)
    assert [token.surface for token in text.tokens] == [b" dog", b"s", b" bark"]
    first, second = text.regions
    assert (first.tokens, second.tokens) == (2, 1)
    assert first.uncorrected == pytest.approx(bits[0] + bits[1], abs=1e-5)
    assert first.surprisal == pytest.approx(bits[0] + bits[1] - math.log2(inside[6]), abs=1e-5)
    assert second.surprisal == pytest.approx(bits[2] - math.log2(inside[7]) + math.log2(inside[6]), abs=1e-5)


def test_corrected_probabilities_of_all_words_add_up_to_one_where_plain_ones_do_not(toy_tokenizer, bigram):
    tokenizer = toy_tokenizer([" a", " b", "x"])  # words: a or b, then any number of x
    size = tokenizer.vocab_size
    table = torch.zeros(size, size) + 1e-12
    table[2, 4], table[2, 5] = 0.6, 0.4
    for row in (4, 5, 6):
        table[row, 3], table[row, 4], table[row, 5], table[row, 6] = 0.3, 0.2, 0.1, 0.4
    words = ["".join((start, *["x"] * count)) for start, count in product("ab", range(25))]

    first = list(score_surprisal(bigram(table), tokenizer, [stimulus(word) for word in words]))
    second = list(score_surprisal(bigram(table), tokenizer, [stimulus(f"a {word}") for word in words]))

    assert sum(2 ** -text.regions[0].surprisal for text in first) == pytest.approx(1, abs=1e-5)
    assert sum(2 ** -text.regions[0].uncorrected for text in first) > 1.5
    after_a_space = 0.3 / 0.6  # a second word comes, rather than the end of the text
    assert sum(2 ** -text.regions[1].surprisal for text in second) == pytest.approx(after_a_space, abs=1e-5)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["dog", "dogs", "cat", "cats", "bark", "barks"]), min_size=1, max_size=8))
def test_words_and_tokens_add_up_to_the_same_total(tokenizer, bigram, words):
    model = random_bigram(bigram, tokenizer.vocab_size)

    (text,) = score_surprisal(model, tokenizer, [stimulus(" ".join(words))])

    total = sum(token.bits for token in text.tokens)
    assert sum(region.uncorrected for region in text.regions) == pytest.approx(total, abs=1e-6)
    assert sum(region.tokens for region in text.regions) == len(text.tokens)
    with torch.no_grad():
        end = torch.tensor(text.tokens[-1].token)
        over = model.table[end, [2, 3, 4, 5, 7, 8, 9]].logsumexp(-1).item() / math.log(2)
    assert sum(region.surprisal for region in text.regions) == pytest.approx(total - over, abs=1e-4)


def test_windows_change_nothing_for_a_model_that_looks_back_one_token(tokenizer, bigram):
    model = random_bigram(bigram, tokenizer.vocab_size)
    text = stimulus("dogs bark cats bark dog cat dogs dogs")

    (whole,) = score_surprisal(model, tokenizer, [text])
    (cut,) = score_surprisal(model, tokenizer, [text], window=4, stride=1)

    np.testing.assert_allclose([r.surprisal for r in cut.regions], [r.surprisal for r in whole.regions], atol=1e-5)
    assert [token.word for token in cut.tokens] == [token.word for token in whole.tokens]


def test_a_text_longer_than_the_context_is_read_through_a_window(tokenizer, tiny_attention):
    torch.manual_seed(0)
    model = tiny_attention(tokenizer.vocab_size, context=16)
    words = ["dog"] * 40

    (text,) = score_surprisal(model, tokenizer, [stimulus(" ".join(words))], stride=4)

    assert len(text.regions) == 40
    assert all(math.isfinite(region.surprisal) for region in text.regions)


def test_regions_of_several_words_add_up_their_words(tokenizer, bigram):
    model = random_bigram(bigram, tokenizer.vocab_size)
    regions = (Region(("dogs", "bark"), "t:2", {"item": "1"}), Region(("cat",), "t:3", {}))

    (joined,) = score_surprisal(model, tokenizer, [Stimulus(1, "t:2", regions)])
    (single,) = score_surprisal(model, tokenizer, [stimulus("dogs bark cat")])

    bits = [region.surprisal for region in single.regions]
    assert [region.surprisal for region in joined.regions] == pytest.approx([bits[0] + bits[1], bits[2]], abs=1e-5)
    assert [region.region.text for region in joined.regions] == ["dogs bark", "cat"]


def test_a_word_that_the_tokenizer_does_not_know_is_named(tokenizer, bigram):
    model = random_bigram(bigram, tokenizer.vocab_size)
    text = stimulus("dogs böse", where="s.txt:7")

    with pytest.raises(DataError, match=r"s.txt:7: the word 'böse' has characters that the tokenizer does not know"):
        list(score_surprisal(model, tokenizer, [text]))
    (scored,) = score_surprisal(model, tokenizer, [text], unknown="score")
    assert len(scored.regions) == 2


def test_a_word_that_leaves_no_token_is_named(toy_tokenizer, bigram):
    class Deaf(toy_tokenizer):
        def encode(self, text):
            return super().encode(text.replace("\u200b", "").replace("  ", " "))

    tokenizer = Deaf(PIECES)
    text = stimulus("dogs \u200b bark", where="s.txt:2")

    with pytest.raises(DataError, match=r"s.txt:2: the tokenizer does not see the word '\\u200b' \(word 2\)"):
        list(score_surprisal(random_bigram(bigram, tokenizer.vocab_size), tokenizer, [text]))


@pytest.mark.parametrize(("window", "stride"), [(1, None), (17, None), (8, 8), (8, -1)])
def test_a_window_that_does_not_fit_is_a_config_error(tokenizer, tiny_attention, window, stride):
    model = tiny_attention(tokenizer.vocab_size, context=16)

    with pytest.raises(ConfigError, match=r"window 1:|window 17:|stride"):
        list(score_surprisal(model, tokenizer, [stimulus("dog")], window=window, stride=stride))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([b" a", b"b", b" ", b"\n", b" c d", b"e ", b"\xc3", b"\xbc"]), max_size=12))
def test_every_token_belongs_to_the_word_that_its_bytes_stand_in(surfaces):
    class Vocabulary:
        vocab_size, bos_id, eos_id, unk_id = 12, None, None, None

        def token_surfaces(self):
            return surfaces

    boundaries = word_boundaries(Vocabulary())

    owners, words = boundaries.words(range(len(surfaces)))

    text = b"".join(surfaces)
    assert words == text.split()
    assert owners == sorted(owners)
    begins = [match.start() for match in re.finditer(rb"\S+", text)]
    at = 0
    for surface, owner in zip(surfaces, owners, strict=True):
        visible = at + len(surface) - len(surface.lstrip())
        if surface.strip():
            assert begins[owner] <= visible
            assert owner + 1 == len(words) or visible < begins[owner + 1]
        at += len(surface)


def test_words_joined_by_one_token_are_named(toy_tokenizer):
    tokenizer = toy_tokenizer([" of the", " dog"])
    boundaries = word_boundaries(tokenizer)

    with pytest.raises(DataError, match=r"t:1: the tokenizer does not see the word"):
        align(tokenizer.encode("of the dog"), ["of", "the", "dog"], boundaries, where="t:1")
