"""`FusedAdamW` makes the bits of `torch.optim.AdamW(fused=True)`, in the plain case and in every other."""

import copy

import pytest
import torch
from torch import nn

from foundry_train.fused_adamw import FusedAdamW

SETTINGS = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6}


def net(device="cpu"):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)).to(device)


def groups(model):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


def pair(device="cpu"):
    """Ours and torch's, each over a model of its own with the same weights."""
    ours, theirs = net(device), net(device)
    return (ours, FusedAdamW(groups(ours), **SETTINGS)), (
        theirs,
        torch.optim.AdamW(groups(theirs), **SETTINGS, fused=True),
    )


def backward(model, seed):
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    inputs = torch.randn(4, 5, generator=generator).to(next(model.parameters()).device)
    model(inputs).square().sum().backward()


def assert_same(first, second):
    (ours, our_optimizer), (theirs, their_optimizer) = first, second
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(our_optimizer.state.values(), their_optimizer.state.values(), strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


DEVICES = ["cpu", pytest.param("cuda:0", marks=[pytest.mark.gpu, pytest.mark.slow])]


@pytest.mark.parametrize("device", DEVICES)
def test_every_step_has_the_bits_of_torch(device):
    both = pair(device)

    for step in range(6):
        for model, optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] = 0.03 / (1 + step)
            backward(model, step)
            optimizer.step()
        assert_same(*both)


def test_after_the_first_step_the_step_of_torch_is_not_called(monkeypatch):
    (model, optimizer), _ = pair()
    calls = []
    whole = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *given: calls.append(1) or whole(*given))

    for step in range(3):
        backward(model, step)
        optimizer.step()

    assert len(calls) == 1


def test_a_parameter_without_a_gradient_is_left_as_it_is():
    both = pair()

    for step in range(4):
        for model, optimizer in both:
            backward(model, step)
            if step != 2:
                model[2].weight.grad = None
            optimizer.step()

    assert_same(*both)


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_that_are_not_finite_are_not_stepped_on_where_the_kernel_is_told(device):
    both = pair(device)

    for step in range(4):
        for model, optimizer in both:
            backward(model, step)
            optimizer.found_inf = torch.tensor(float(step == 2), device=device)
            optimizer.step()
            del optimizer.found_inf

    assert_same(*both)
    assert both[0][1].state[both[0][0][0].weight]["step"] == 3


def test_a_gradient_scale_of_torch_amp_is_taken_off():
    both = pair()

    for step in range(3):
        for model, optimizer in both:
            backward(model, step)
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
            optimizer.step()

    assert_same(*both)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_state_goes_from_one_to_the_other(after):
    (ours, our_optimizer), (theirs, their_optimizer) = pair()
    for step in range(after):
        backward(theirs, step)
        their_optimizer.step()

    ours.load_state_dict(theirs.state_dict())
    our_optimizer.load_state_dict(copy.deepcopy(their_optimizer.state_dict()))
    for step in range(after, after + 3):
        for model, optimizer in ((ours, our_optimizer), (theirs, their_optimizer)):
            backward(model, step)
            optimizer.step()

    assert_same((ours, our_optimizer), (theirs, their_optimizer))


def test_a_closure_is_called_with_gradients():
    (ours, optimizer), (theirs, reference) = pair()

    def closure(model):
        backward(model, 0)
        return torch.tensor(1.0)

    for _ in range(3):
        assert optimizer.step(lambda: closure(ours)) == 1.0 and reference.step(lambda: closure(theirs)) == 1.0

    assert_same((ours, optimizer), (theirs, reference))


def test_weights_of_several_types_in_one_group():
    def build(optimizer_class, **more):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3).bfloat16())]
        return weights, optimizer_class([{"params": weights}], lr=0.1, **more)

    both = build(FusedAdamW), build(torch.optim.AdamW, fused=True)
    for _ in range(3):
        for weights, optimizer in both:
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            optimizer.step()

    assert all(torch.equal(a, b) for a, b in zip(both[0][0], both[1][0], strict=True))


@pytest.mark.parametrize("variant", ["amsgrad", "maximize"])
def test_variants_of_adamw_are_those_of_torch(variant):
    ours, theirs = net(), net()
    both = (
        (ours, FusedAdamW(groups(ours), **SETTINGS, **{variant: True})),
        (theirs, torch.optim.AdamW(groups(theirs), **SETTINGS, **{variant: True}, fused=True)),
    )

    for step in range(4):
        for model, optimizer in both:
            backward(model, step)
            optimizer.step()

    assert_same(*both)


def test_a_group_without_parameters_is_no_obstacle():
    model = net()
    optimizer = FusedAdamW([*groups(model), {"params": []}], **SETTINGS)
    before = model[0].weight.clone()

    for step in range(2):
        backward(model, step)
        optimizer.step()

    assert optimizer.state[model[0].weight]["step"] == 2 and not torch.equal(model[0].weight, before)


def test_torch_puts_nothing_around_the_step():
    written = FusedAdamW.step
    FusedAdamW([{"params": [torch.nn.Parameter(torch.ones(2))]}], lr=0.1)

    assert FusedAdamW.step is written
