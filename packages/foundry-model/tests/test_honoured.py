"""Models that do not do what they were asked for are caught after they are built."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foundry_config import ConfigError
from foundry_model.honoured import check_causal, check_tying, sees_later_tokens


class Pooled(nn.Module):
    """Every position sees the mean of all tokens, as an encoder does; `causal` makes it the mean so far."""

    def __init__(self, *, causal):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 50)
        self.causal, self.config = causal, SimpleNamespace(max_position_embeddings=12)

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids):
        assert input_ids.shape[1] <= 12
        x = self.embedding(input_ids)
        counts = torch.arange(1, x.shape[1] + 1)[:, None]
        pooled = x.cumsum(1) / counts if self.causal else x.mean(1, keepdim=True).expand_as(x)
        return SimpleNamespace(logits=self.head(pooled))


def test_a_model_that_sees_later_tokens_is_told_from_a_causal_one():
    assert sees_later_tokens(Pooled(causal=False), length=12)
    assert not sees_later_tokens(Pooled(causal=True), length=12)


def test_a_model_that_sees_later_tokens_is_refused():
    with pytest.raises(ConfigError, match="'hf:bert' is not causal: what it predicts depends on later tokens"):
        check_causal(Pooled(causal=False), "hf:bert", vocab_size=50, length=8)


def test_the_probe_leaves_modes_and_random_state_alone():
    model, state = Pooled(causal=True).train(), torch.get_rng_state()

    check_causal(model, "hf:own", vocab_size=50, length=8)

    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_cannot_take_as_many_tokens_as_it_is_built_for_is_refused():
    model = Pooled(causal=True)
    model.config.max_position_embeddings = 13

    with pytest.raises(ConfigError, match="'hf:own' does not run on 13 token ids alone: AssertionError"):
        check_causal(model, "hf:own", vocab_size=50, length=8)


def test_a_model_for_fewer_tokens_than_it_is_to_train_on_is_refused():
    with pytest.raises(ConfigError, match=r"'own:short' gives a model for 12 positions, fewer than .* 13"):
        check_causal(Pooled(causal=True), "own:short", vocab_size=50, length=13)


@pytest.mark.parametrize(("tied", "advice"), [(True, "always ties"), (False, "cannot tie")])
def test_a_family_that_ties_otherwise_than_asked_is_refused(tied, advice):
    model = Pooled(causal=True)
    if tied:
        model.head.weight = model.embedding.weight

    assert check_tying(model, wanted=tied) is model
    with pytest.raises(ConfigError, match=f"Pooled of transformers {advice} .*use tie_embeddings: {str(tied).lower()}"):
        check_tying(model, wanted=not tied)
