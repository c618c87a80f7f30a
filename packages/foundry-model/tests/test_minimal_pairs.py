"""Minimal pairs: the scores of both sides, what counts as right, and pairs that cannot be scored."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config.errors import ConfigError, DataError
from foundry_model.minimal_pairs import (
    MEASURES,
    ScoredPair,
    SideScore,
    accuracies,
    accuracy,
    score_pair_files,
    score_pairs,
    wilson,
)
from foundry_model.pair_files import MinimalPair, Side, read_pair_file

PIECES = [" dogs", " cats", " bark", "s", " the", " <"]


@pytest.fixture
def tokenizer(toy_tokenizer):
    return toy_tokenizer(PIECES)


@pytest.fixture
def model(bigram, tokenizer):
    """p(next) is the same after every token: proportional to the id."""
    weights = torch.arange(1.0, tokenizer.vocab_size + 1)
    return bigram((weights / weights.sum()).repeat(tokenizer.vocab_size, 1))


def p(model, *ids):
    return sum(model.table[0, i].item() for i in ids)


def write(folder, records, name="pairs.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def pair(good, bad, **more):
    return {"sentence_good": good, "sentence_bad": bad, **more}


def scored(credited, field="syntax", file="a"):
    """Pairs whose good side scores higher, equal or lower."""
    item = MinimalPair(Side("", "g"), Side("", "b"), "a:1", "0", field, "")
    return [ScoredPair(file, item, SideScore(credit - 0.5, 1, 0), SideScore(0.0, 1, 0)) for credit in credited]


def test_both_sides_get_their_log_probability_given_the_start_token(tmp_path, tokenizer, model):
    file = read_pair_file(write(tmp_path, [pair("the dogs bark", "the dogs barks")]))

    (result,) = score_pairs(model, tokenizer, file)

    assert result.good.logprob == pytest.approx(p(model, 8, 4, 6), abs=1e-5)
    assert result.bad.logprob == pytest.approx(p(model, 8, 4, 6, 7), abs=1e-5)
    assert (result.good.tokens, result.bad.tokens) == (3, 4)
    assert result.bad.by("per_token") == pytest.approx(p(model, 8, 4, 6, 7) / 4, abs=1e-5)


def test_one_prefix_scores_only_the_word_after_the_prefix(tmp_path, tokenizer, model):
    record = {
        "one_prefix_prefix": "the dogs",
        "one_prefix_word_good": "bark",
        "one_prefix_word_bad": "barks",
        "one_prefix_method": True,
    }
    path = write(tmp_path, [record, {**record, "one_prefix_method": False}])

    ((result,),) = score_pair_files(model, tokenizer, [path], method="one_prefix")

    assert (result.good.tokens, result.bad.tokens) == (1, 2)
    assert result.bad.logprob == pytest.approx(p(model, 6, 7), abs=1e-5)


def test_two_prefix_scores_one_word_after_two_prefixes(tmp_path, toy_tokenizer, bigram, probabilities):
    tokenizer = toy_tokenizer([" dog", " dogs", " bark"])
    table = probabilities(7, {(5, 6): 0.5, (4, 6): 0.1})
    record = {
        "two_prefix_prefix_good": "dogs",
        "two_prefix_prefix_bad": "dog",
        "two_prefix_word": "bark",
        "two_prefix_method": "True",
    }

    ((result,),) = score_pair_files(bigram(table), tokenizer, [write(tmp_path, [record])], method="two_prefix")

    assert result.good.logprob == pytest.approx(math.log(0.5), abs=1e-5)
    assert result.bad.logprob == pytest.approx(math.log(0.1), abs=1e-5)
    assert result.good.tokens == result.bad.tokens == 1


def test_a_start_token_can_be_chosen(tmp_path, tokenizer, bigram, probabilities):
    table = probabilities(10, {(3, 4): 0.7, (2, 4): 0.2})
    file = read_pair_file(write(tmp_path, [pair("dogs", "cats")]))

    from_bos = score_pairs(bigram(table), tokenizer, file)[0].good.logprob
    from_eos = score_pairs(bigram(table), tokenizer, file, start_id=3)[0].good.logprob

    assert (from_bos, from_eos) == pytest.approx((math.log(0.2), math.log(0.7)), abs=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_accuracy_counts_ties_as_one_half(credited):
    found = accuracy("file", "a", "sum", scored(credited))

    assert found.value == pytest.approx(sum(credited) / len(credited))
    assert found.ties == credited.count(0.5)
    assert 0 <= found.low <= found.value <= found.high <= 1


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_wilson_holds_the_shares_whose_score_test_does_not_reject(case):
    correct, n = case

    low, high = wilson(correct, n)

    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(correct / n - bound) / math.sqrt(bound * (1 - bound) / n) == pytest.approx(1.959964, rel=1e-4)


def test_results_are_grouped_by_file_field_and_all_together():
    found = accuracies(scored([1, 1, 0], "syntax", "a") + scored([0.5], "semantics", "b"))

    by_sum = {(entry.group, entry.name): (entry.n, entry.correct) for entry in found if entry.measure == "sum"}
    assert by_sum == {
        ("file", "a"): (3, 2.0),
        ("file", "b"): (1, 0.5),
        ("field", "semantics"): (1, 0.5),
        ("field", "syntax"): (3, 2.0),
        ("overall", ""): (4, 2.5),
    }
    assert {entry.measure for entry in found} == set(MEASURES)


def test_many_pairs_are_scored_in_several_passes(tmp_path, tokenizer, model, monkeypatch):
    monkeypatch.setattr("foundry_model.minimal_pairs.PAIRS_AT_ONCE", 2)
    file = read_pair_file(write(tmp_path, [pair("dogs bark", "dogs barks")] * 5))

    results = score_pairs(model, tokenizer, file)

    assert len({result.good.logprob for result in results}) == 1
    assert len(results) == 5


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"sentence_good": "a"}, r"pairs.jsonl:2: no field 'sentence_bad'. Did you mean 'sentence_good'\?"),
        (pair("", "a"), "pairs.jsonl:2: 'sentence_good' is empty"),
        (pair(" \t", "a"), "pairs.jsonl:2: 'sentence_good' is empty"),
        (pair("dogs", 3), "pairs.jsonl:2: 'sentence_bad' must be text, found 3"),
        (["dogs"], "pairs.jsonl:2: expected a JSON object, found list"),
    ],
)
def test_a_bad_record_is_named_with_file_and_line(tmp_path, record, message):
    path = write(tmp_path, [pair("dogs bark", "cats bark"), record])

    with pytest.raises(DataError, match=message):
        read_pair_file(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (pair("dogs ü", "dogs bark"), "pairs.jsonl:1: 'dogs ü' has characters that the tokenizer does not know"),
        (pair("the " * 20, "dogs"), "pairs.jsonl:1: 20 tokens with the one it starts from, but the model reads 16: "),
    ],
)
def test_a_pair_that_cannot_be_scored_is_named_with_file_and_line(tmp_path, tokenizer, tiny_attention, record, message):
    model = tiny_attention(tokenizer.vocab_size, context=16)

    with pytest.raises(DataError, match=message):
        list(score_pair_files(model, tokenizer, [write(tmp_path, [record])]))


def test_all_pairs_that_are_too_long_are_counted(tmp_path, tokenizer, tiny_attention):
    model = tiny_attention(tokenizer.vocab_size, context=16)
    path = write(tmp_path, [pair("dogs", "cats"), pair("dogs", "the " * 30), pair("the " * 20, "dogs")])

    with pytest.raises(DataError, match=r"pairs.jsonl:2: 30 tokens .* and so for 1 more of 3 pairs: 'the the"):
        list(score_pair_files(model, tokenizer, [path]))


def test_unknown_words_can_be_scored(tmp_path, tokenizer, model):
    path = write(tmp_path, [pair("dogs ü", "dogs bark")])
    ((result,),) = score_pair_files(model, tokenizer, [path], unknown="score")
    assert (result.good.unknown, result.bad.unknown) == (2, 0)


def test_equal_sentences_are_ties_as_blimp_has_some(tmp_path, tokenizer, model):
    path = write(tmp_path, [pair("dogs bark", "dogs bark"), pair("dogs ü", "dogs ö")])

    (scored,) = score_pair_files(model, tokenizer, [path], unknown="score")

    assert [result.credit("sum") for result in scored] == [0.5, 0.5]
    assert accuracies(scored)[0].ties == 2


def test_texts_that_the_tokenizer_cannot_tell_apart_are_refused(tmp_path, toy_tokenizer, model):
    class Careless(toy_tokenizer):
        def encode(self, text):
            return super().encode(text.lower())

    path = write(tmp_path, [pair("dogs bark", "Dogs bark")])

    with pytest.raises(DataError, match=r"pairs.jsonl:1: the tokenizer cannot tell 'dogs bark' from 'Dogs bark'"):
        list(score_pair_files(model, Careless(PIECES), [path]))


def test_a_word_without_a_token_is_refused(tmp_path, toy_tokenizer, model, tokenizer):
    class Deaf(toy_tokenizer):
        def encode(self, text):
            return [] if text == "bark" else super().encode(text)

    path = write(tmp_path, [pair("bark", "dogs")])

    with pytest.raises(DataError, match=r"pairs.jsonl:1: the tokenizer sees nothing in 'bark'"):
        list(score_pair_files(model, Deaf(PIECES), [path]))


def test_a_tokenizer_of_another_size_is_refused(tmp_path, tokenizer, bigram):
    path = write(tmp_path, [pair("dogs", "cats")])

    with pytest.raises(DataError, match="the tokenizer has 10 tokens, but the model has 12"):
        list(score_pair_files(bigram(torch.ones(12, 12) / 12), tokenizer, [path]))


def test_a_model_padded_to_a_multiple_of_64_is_accepted(tmp_path, tokenizer, bigram):
    path = write(tmp_path, [pair("dogs", "cats")])

    ((result,),) = score_pair_files(bigram(torch.ones(64, 64) / 64), tokenizer, [path])

    assert result.good.logprob == pytest.approx(-math.log(64), abs=1e-5)


def test_a_tokenizer_without_special_tokens_has_nothing_to_start_from(tmp_path, tokenizer, model):
    tokenizer.bos_id = tokenizer.eos_id = None
    path = write(tmp_path, [pair("dogs", "cats")])

    with pytest.raises(DataError, match="no BOS or EOS token"):
        list(score_pair_files(model, tokenizer, [path]))


def test_a_method_that_no_pair_is_made_for_is_refused(tmp_path, tokenizer, model):
    path = write(tmp_path, [pair("dogs", "cats", one_prefix_method=False)])

    with pytest.raises(DataError, match="no pair for the method 'one_prefix'"):
        list(score_pair_files(model, tokenizer, [path], method="one_prefix"))
    with pytest.raises(ConfigError, match="Did you mean 'one_prefix'"):
        list(score_pair_files(model, tokenizer, [path], method="one_prefx"))
