"""Weights that compute in bf16 beside those in fp32 that are trained."""

import numpy as np
import pytest
import torch
from torch import nn

from foundry_data.torch_loader import GlobalBatch
from foundry_train.bf16_weights import Bf16Weights
from foundry_train.distributed import World
from foundry_train.optimizers import OptimizerGroup
from foundry_train.precision import make_precision
from foundry_train.step import Outcome, Updater

CPU = torch.device("cpu")


class Tied(nn.Module):
    """Embedding and head share their weight; one table is a buffer and one gain is wanted in fp32."""

    _keep_in_fp32_modules_strict = ("gain",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight
        self.gain = nn.Parameter(torch.full((8,), 1.1))
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.register_buffer("frequencies", torch.linspace(0.1, 0.9, 8))

    def forward(self, ids):
        hidden = self.embedding(ids) * self.gain * self.frozen + self.frequencies
        return self.head(hidden.to(self.head.weight.dtype))


def loss_of(model: nn.Module):
    def loss(ids, labels, positions=None, mask=None):
        logits = model(ids).float().flatten(0, 1)
        return nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum"), (labels >= 0).sum()

    return loss


def test_the_copy_holds_the_rounded_weights_with_the_same_ties_and_the_model_keeps_its_own():
    model = Tied()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    copy = Bf16Weights(model).model

    assert copy.embedding.weight is copy.head.weight
    assert torch.equal(copy.embedding.weight, model.embedding.weight.bfloat16())
    assert copy.frozen.dtype is torch.bfloat16 and not copy.frozen.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_what_a_class_wants_in_fp32_is_shared_and_so_are_buffers_which_are_saved_with_the_model():
    model = Tied()

    copy = Bf16Weights(model).model

    assert copy.gain is model.gain
    assert copy.frequencies.dtype is torch.float32 and copy.frequencies is model.frequencies


def test_gradients_arrive_in_the_model_and_are_added_up_in_fp32():
    model = Tied()
    weights = Bf16Weights(model)
    loss, ids = loss_of(weights.model), torch.arange(12).view(3, 4)
    single = []
    for row in ids:
        alone = Tied().bfloat16()
        alone.gain.data, alone.frequencies = model.gain.data.clone(), model.frequencies
        loss_of(alone)(row[None], row[None])[0].backward()
        single.append(alone.embedding.weight.grad.float())

    for row in ids:
        loss(row[None], row[None])[0].backward()

    assert torch.equal(model.embedding.weight.grad, single[0] + single[1] + single[2])
    assert model.embedding.weight.grad.dtype is torch.float32
    assert model.gain.grad is not None
    assert weights.model.embedding.weight.grad is None


def updater_of(model: nn.Module, *, rate: float, micro_batch: int = 4) -> Updater:
    weights = Bf16Weights(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return Updater(
        loss_of(weights.model),
        model,
        OptimizerGroup([torch.optim.SGD(parameters, lr=rate)]),
        world=World(),
        precision=make_precision("bf16", CPU, bf16_params=True),
        micro_batch=micro_batch,
        max_grad_norm=None,
        bf16_weights=weights,
    )


@pytest.fixture
def batch() -> GlobalBatch:
    ids = torch.arange(40).view(8, 5) % 16
    return GlobalBatch(
        input_ids=ids,
        labels=ids,
        position_ids=None,
        attention_mask=None,
        target_tokens=40,
        sequences=8,
        tokens=40,
        words=40,
        sequence_ids=np.arange(8),
        epoch=0,
        position=0,
    )


def test_updates_too_small_for_bf16_add_up(batch):
    model, rate, updates = Tied(), 1e-4, 40
    before = model.embedding.weight.detach().clone()
    updater = updater_of(model, rate=rate)

    first = updater.update(batch)
    moved = (model.embedding.weight - before).abs()
    for _ in range(updates - 1):
        last = updater.update(batch)

    assert first.outcome is Outcome.UPDATED
    assert 0 < moved.max() < 2**-9 * before.abs().max()  # less than half a step of bf16
    assert last.loss < first.loss


def test_weights_that_were_loaded_afterwards_are_those_that_compute(batch):
    model, other = Tied(), Tied()
    with torch.no_grad():
        other.embedding.weight.mul_(0.5)
    updater, expected = updater_of(model, rate=0.1), updater_of(other, rate=0.1)
    model.load_state_dict(other.state_dict())

    assert updater.update(batch) == expected.update(batch)
    assert torch.equal(model.embedding.weight, other.embedding.weight)


def test_autocast_and_loss_scaling_are_left_out():
    precision = make_precision("bf16", CPU, bf16_params=True)

    with precision.autocast():
        assert not torch.is_autocast_enabled("cpu")
    assert precision.scaler is None
