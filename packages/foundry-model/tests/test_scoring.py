"""Exact log-probabilities in batches: against one sequence at a time, and without a trace."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from foundry_config.errors import NonFiniteError
from foundry_model.prefix_trie import Row, Span, batches, pack_chains, pack_tries
from foundry_model.scoring import ROW_TOKENS, score_spans
from foundry_model.scoring_model import open_for_scoring

V = 11
sequences = st.lists(st.integers(0, V - 1), min_size=2, max_size=12)
spans = st.lists(
    sequences.flatmap(lambda ids: st.builds(Span, st.just(tuple(ids)), st.integers(1, len(ids) - 1))),
    min_size=1,
    max_size=6,
)
relaxed = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


@torch.no_grad()
def one_at_a_time(model, span):
    """Plain PyTorch: the whole softmax of one sequence."""
    model.eval()
    rows = model(torch.tensor([span.tokens])).logits[0].double().log_softmax(-1)
    return np.array([rows[i - 1, span.tokens[i]].item() for i in range(span.first, len(span.tokens))]), rows.exp()


@pytest.mark.slow
@relaxed
@given(spans, st.sampled_from([1, 7, 64, None]))
def test_batched_scores_equal_those_of_one_sequence_at_a_time(tiny_model, items, batch_tokens):
    model = tiny_model(V)

    scores = score_spans(model, items, batch_tokens=batch_tokens)

    for span, score in zip(items, scores, strict=True):
        np.testing.assert_allclose(score.logprobs, one_at_a_time(model, span)[0], atol=1e-5)
        assert score.boundary is None


@pytest.mark.slow
@relaxed
@given(spans, st.lists(st.booleans(), min_size=V, max_size=V).filter(any))
def test_boundary_is_the_summed_probability_of_its_set_before_and_after_every_scored_token(tiny_model, items, members):
    model = tiny_model(V)

    scores = score_spans(model, items, boundary=members)

    for span, score in zip(items, scores, strict=True):
        logprobs, probabilities = one_at_a_time(model, span)
        inside = probabilities[:, torch.tensor(members)].sum(-1).log()[span.first - 1 :]
        np.testing.assert_allclose(score.boundary, inside, atol=1e-5)
        np.testing.assert_allclose(score.logprobs, logprobs, atol=1e-5)


@pytest.mark.slow
@relaxed
@given(spans, st.randoms(use_true_random=False))
def test_order_does_not_matter(tiny_model, items, random):
    model = tiny_model(V)
    order = random.sample(range(len(items)), len(items))

    scores = score_spans(model, items)
    shuffled = score_spans(model, [items[i] for i in order])

    for place, i in enumerate(order):
        np.testing.assert_allclose(shuffled[place].logprobs, scores[i].logprobs, atol=1e-5)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.lists(sequences.map(lambda ids: Span(tuple(ids))), min_size=1, max_size=12), st.integers(12, 40), st.booleans()
)
def test_tries_hold_every_text_on_a_path_of_ancestors(items, row_tokens, whole):
    rows = list(pack_tries(items, row_tokens=row_tokens, whole=whole))

    assert sorted(query.span for row in rows for query in row.queries) == list(range(len(items)))
    for row in rows:
        assert len(row) <= row_tokens
        mask = np.zeros((len(row), len(row)), dtype=bool)
        row.fill_mask(mask)
        for number, path in row.queries:
            read = items[number].tokens if whole else items[number].tokens[:-1]
            assert [row.tokens[node] for node in path] == list(read)
            assert [row.depths[node] for node in path] == list(range(len(read)))
            for depth, node in enumerate(path):
                assert set(np.flatnonzero(mask[node])) == set(path[: depth + 1])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), max_size=30), st.integers(1, 100))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    rows = []
    for length in lengths:
        rows.append(Row())
        rows[-1].add(0, list(range(length)), np.zeros(0, dtype=np.int64))

    found = list(batches(rows, batch_tokens=budget))

    assert sorted(map(id, (row for batch in found for row in batch))) == sorted(map(id, rows))
    assert all(len(batch) == 1 or len(batch) * max(map(len, batch)) <= budget for batch in found)


def test_chains_share_only_equal_texts():
    rows = list(pack_chains([Span((1, 2, 3)), Span((1, 2, 4)), Span((1, 3, 3))]))

    assert [row.tokens for row in rows] == [[1, 2], [1, 3]]
    assert [[query.span for query in row.queries] for row in rows] == [[0, 1], [2]]


def test_shared_beginnings_are_read_once(tiny_attention):
    torch.manual_seed(0)
    model = tiny_attention(V)
    begin = tuple(int(i) % V for i in range(20))
    with open_for_scoring(model) as scorer:
        assert scorer.reads_tries and scorer.vocab_size >= V  # found out by reading a few tokens
        model.read_tokens = 0

        score_spans(scorer, [Span((*begin, end, end)) for end in range(V)])

    assert model.read_tokens == 20 + V


def test_texts_longer_than_a_row_are_scored_too(tiny_attention):
    model = tiny_attention(V)
    items = [Span(tuple(range(V)) * 12), Span((1, 2)), Span(tuple(range(V)) * 8, first=70)]
    assert len(items[2].tokens) > ROW_TOKENS

    scores = score_spans(model, items)

    for span, score in zip(items, scores, strict=True):
        np.testing.assert_allclose(score.logprobs, one_at_a_time(model, span)[0], atol=1e-5)


def test_no_row_is_longer_than_the_context(tiny_attention):
    class Bounded(tiny_attention):
        def body(self, input_ids, *rest, **named):
            assert input_ids.shape[1] <= 16
            return super().body(input_ids, *rest, **named)

    texts = [Span((2, *(4 + (i * j) % 7 for j in range(12)))) for i in range(6)]

    model = Bounded(V, context=16).eval()
    together, alone = score_spans(model, texts), [score_spans(model, [text])[0] for text in texts]

    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-5)


def test_a_hand_made_bigram_model_gets_its_own_probabilities(bigram):
    table = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.1, 0.2, 0.7]])

    (score,) = score_spans(bigram(table), [Span((0, 1, 1, 2))], boundary=[True, False, False])

    np.testing.assert_allclose(score.logprobs, np.log([0.25, 0.75, 0.125]), rtol=1e-6)
    np.testing.assert_allclose(score.boundary, np.log([0.5, 0.125, 0.125, 0.1]), rtol=1e-6)


@pytest.mark.parametrize("shift", [-400.0, 0.0, 400.0])
def test_logits_far_from_zero_lose_nothing(bigram, shift):
    model = bigram(torch.tensor([[0.5, 0.5 - 1e-6, 1e-6]] * 3))
    model.table.data += shift

    (score,) = score_spans(model, [Span((0, 1, 2))])

    np.testing.assert_allclose(score.logprobs, np.log([0.5, 1e-6]), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_scored_in_fp32_and_left_alone(tiny_model, dtype):
    model = tiny_model(V).to(dtype)
    twin = copy.deepcopy(model).float()
    span = Span((1, 2, 3, 4))

    (score,) = score_spans(model, [span])

    np.testing.assert_allclose(score.logprobs, one_at_a_time(twin, span)[0], atol=1e-5)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_scoring_leaves_modes_random_state_and_precision_as_they_were(tiny_attention):
    model = tiny_attention(V).train()
    model.head.eval()
    torch.manual_seed(5)
    torch.set_float32_matmul_precision("medium")
    before = torch.get_rng_state()
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = score_spans(model, [Span((1, 2, 3))])[0].logprobs
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")

    assert torch.equal(torch.get_rng_state(), before)
    assert (model.training, model.dropout.training, model.head.training) == (True, True, False)
    np.testing.assert_array_equal(first, score_spans(model, [Span((1, 2, 3))])[0].logprobs)


def test_scoring_keeps_no_gradient_and_allows_training_afterwards(tiny_attention):
    model = tiny_attention(V)

    score_spans(model, [Span((1, 2, 3))])
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()

    assert model.head.weight.grad is not None


def test_a_sliding_window_model_is_not_given_tries(tiny_attention):
    model = tiny_attention(V)
    model.config = SimpleNamespace(max_position_embeddings=512, sliding_window=4)

    with open_for_scoring(model) as scorer:
        assert not scorer.reads_tries


def test_a_model_that_ignores_the_mask_is_not_given_tries(tiny_attention):
    class Leaking(tiny_attention):
        def body(self, input_ids, attention_mask=None, position_ids=None, use_cache=False):
            return super().body(input_ids, None, position_ids)

    class Refusing(tiny_attention):
        def body(self, input_ids, attention_mask=None, position_ids=None, use_cache=False):
            if attention_mask is not None:
                raise NotImplementedError("this kernel takes no mask")
            return super().body(input_ids)

    for kind in (Leaking, Refusing):
        torch.manual_seed(0)
        with open_for_scoring(kind(V)) as scorer:
            assert not scorer.reads_tries


@pytest.mark.slow  # the compiler's first import
def test_a_compiled_model_is_not_compiled_again_for_every_shape(tiny_attention):
    torch.manual_seed(0)
    model = tiny_attention(V)
    expected = score_spans(model, [Span((1, 2, 3))])[0].logprobs
    model.compile(backend="eager")

    found = score_spans(model, [Span((1, 2, 3))])[0].logprobs

    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("span", [Span((1,)), Span((1, 2), first=0), Span((1, 2), first=2)])
def test_a_span_without_anything_to_score_is_refused(bigram, span):
    with pytest.raises(ValueError, match="the first scored one is"):
        score_spans(bigram(torch.eye(3) + 1), [span])


def test_a_span_beyond_the_context_is_refused_and_one_that_just_fits_is_not(tiny_attention):
    model = tiny_attention(V, context=16)

    with pytest.raises(ValueError, match="reads 17 tokens, the model takes 16"):
        score_spans(model, [Span((1,) * 18)])
    (score,) = score_spans(model, [Span((1,) * 17)])

    assert len(score.logprobs) == 16
    assert math.isfinite(score.logprobs.sum())


def test_nothing_to_score_gives_nothing(bigram):
    assert score_spans(bigram(torch.eye(3) + 1), []) == []


def test_a_model_that_has_diverged_is_an_error(bigram):
    model = bigram(torch.full((3, 3), float("nan")))

    with pytest.raises(NonFiniteError, match="its logits are NaN or infinite"):
        score_spans(model, [Span((0, 1, 2))])


def test_a_model_with_attention_that_has_diverged_is_the_same_error(tiny_attention):
    model = tiny_attention(V)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))

    with pytest.raises(NonFiniteError, match="its logits are NaN or infinite"):
        score_spans(model, [Span((0, 1, 2)), Span((0, 1, 3, 4))])


def test_a_model_is_never_asked_to_keep_a_cache(tiny_attention):
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_attention(V)

        def forward(self, input_ids, use_cache=True):
            assert not use_cache
            return self.inner(input_ids)

    with open_for_scoring(Watched()) as scorer:
        assert scorer.vocab_size >= V
        score_spans(scorer, [Span((1, 2, 3))])
