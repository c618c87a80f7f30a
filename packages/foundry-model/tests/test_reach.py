"""Parameters that text never reaches: found, named, and left out of what training costs."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foundry_model import create_model, estimate_memory, flops_per_token, memory, token_loss
from foundry_model.cost import out_of_reach_of
from foundry_model.reach import out_of_reach


class WithSideParts(nn.Module):
    """A bigram with an encoder of pictures, a layer used by its weight alone, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(50, 8), nn.Linear(8, 50)
        self.pictures = nn.Sequential(nn.Conv2d(3, 8, 2), nn.Linear(8, 8))
        self.borrowed = nn.Linear(8, 8, bias=False)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(nn.functional.linear(self.tokens(input_ids), self.borrowed.weight)))


def test_parts_that_take_no_part_are_named_and_nothing_is_changed():
    model, state = WithSideParts().train(), torch.get_rng_state()
    before = {name: p.clone() for name, p in model.named_parameters()}

    found = out_of_reach(model, length=8)

    assert found == {f"pictures.{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias")}
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.fixture
def bart(tiny_config):
    return tiny_config(architecture="hf:bart", attention="eager")


@pytest.mark.slow
def test_attention_to_an_encoder_that_is_not_there_is_warned_about_and_costs_nothing(bart, caplog):
    model = create_model(bart)
    ids = torch.arange(64).view(2, 32)

    with FlopCounterMode(display=False) as counter:
        token_loss(model, ids, ids)[0].backward()

    left = {name for name, p in model.named_parameters() if p.grad is None}
    assert left == model.foundry_out_of_reach == out_of_reach_of(bart) and len(left) == 20
    assert "text does not reach 33,536 parameters of 'hf:bart', in 20 tensors from model.dec" in caplog.text
    assert flops_per_token(model, 32) == flops_per_token(bart, 32) == counter.get_total_flops() / 64


@pytest.mark.slow
def test_what_text_does_not_reach_has_neither_gradient_nor_optimizer_state(bart, monkeypatch):
    model = create_model(bart)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    reached = sum(size for name, size in sizes.items() if name not in model.foundry_out_of_reach)

    monkeypatch.setattr(memory, "_kept_bytes", lambda *given: 0)  # torch before 2.14 cannot tell it for this family

    estimate = estimate_memory(bart)

    assert estimate.weights == 4 * sum(sizes.values())
    assert (estimate.gradients, estimate.optimizer) == (4 * reached, 8 * reached)


@pytest.mark.slow
def test_a_family_of_text_alone_is_reached_in_all_its_parts(tiny_config, caplog):
    config = tiny_config(architecture="hf:granite")

    assert create_model(config).foundry_out_of_reach == out_of_reach_of(config) == frozenset()
    assert "does not reach" not in caplog.text
