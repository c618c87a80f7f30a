import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foundry_config import ConfigError
from foundry_config.errors import NonFiniteError
from foundry_model.sampling import Sampling, draw_tokens


def _generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


logit_rows = st.lists(st.lists(st.floats(-20, 20), min_size=5, max_size=5), min_size=1, max_size=4)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(logit_rows, st.integers(1, 5), st.integers(0, 2**20))
@example([[0.0] * 5, [0.0] * 5, [0.0, 3.0, -5.960464477539063e-08, 0.0, -1.0]], 2, 0)
def test_tokens_come_from_the_top_k_only(rows, top_k, seed):
    logits = torch.tensor(rows)

    drawn = draw_tokens(logits, Sampling(top_k=top_k), _generators(len(rows), seed))

    least = logits.topk(top_k).values[:, -1]
    assert (logits.gather(1, drawn[:, None])[:, 0] >= least).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(logit_rows, st.floats(0.01, 1.0), st.integers(0, 2**20))
def test_tokens_come_from_the_smallest_set_that_reaches_top_p(rows, top_p, seed):
    logits = torch.tensor(rows)

    drawn = draw_tokens(logits, Sampling(top_p=top_p), _generators(len(rows), seed))

    for row, token in zip(logits.softmax(-1), drawn.tolist(), strict=True):
        likelier = row[row > row[token]].sum()
        assert likelier < top_p + 1e-4


@settings(deadline=None, max_examples=30)
@given(logit_rows)
def test_temperature_zero_takes_the_most_likely_token(rows):
    logits = torch.tensor(rows)

    drawn = draw_tokens(logits, Sampling(temperature=0.0), _generators(len(rows)))

    assert torch.equal(drawn, logits.argmax(-1))


def test_frequencies_follow_the_probabilities_at_the_temperature():
    logits = torch.tensor([[0.0, 1.0, 2.0, float("-inf")]]).expand(20_000, 4)
    generator = torch.Generator().manual_seed(0)

    drawn = draw_tokens(logits, Sampling(temperature=2.0), [generator] * 20_000)

    frequencies = drawn.bincount(minlength=4) / 20_000
    assert torch.allclose(frequencies, (logits[0] / 2).softmax(-1), atol=0.015)
    assert frequencies[3] == 0


def test_what_a_row_draws_does_not_depend_on_its_neighbours():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))

    together = draw_tokens(logits, Sampling(), _generators(3))
    alone = [draw_tokens(logits[i : i + 1], Sampling(), [_generators(3)[i]]).item() for i in range(3)]

    assert together.tolist() == alone


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_a_value_outside_its_range_is_refused(settings, name):
    with pytest.raises(ConfigError, match=name):
        Sampling(**settings)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-39, 1e-40, 5e-324])
def test_the_smaller_the_temperature_the_surer_the_most_likely_token(temperature):
    logits = torch.tensor([[0.0, 50.0, 30.0, -8.0]])

    assert draw_tokens(logits, Sampling(temperature), _generators(1)).tolist() == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_give_no_token(value, temperature):
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        draw_tokens(torch.tensor([[0.0, value, 1.0]]), Sampling(temperature), _generators(1))


def test_a_token_that_is_ruled_out_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]])

    assert draw_tokens(logits, Sampling(2.0), _generators(1)).tolist() == [1]
