"""Optimizer state by parameter name: exact, and refused where it does not fit."""

from typing import Any

import pytest
import torch
from torch import nn

from foundry_config.errors import ResumeMismatchError
from foundry_train.optimizers import OptimizerGroup
from foundry_train.tensor_tree import OptimizerTree, export_optimizer, import_optimizer


def model(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))


def step(net: nn.Module, optimizer: Any) -> None:
    net.zero_grad()
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def trained(make: Any) -> tuple[nn.Module, Any]:
    net = model()
    optimizer = make(net)
    step(net, optimizer)
    return net, optimizer


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)


def two(net: nn.Module) -> OptimizerGroup:
    matrices = [p for p in net.parameters() if p.ndim == 2]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    return OptimizerGroup([torch.optim.Muon(matrices, lr=0.1), torch.optim.AdamW(vectors, lr=0.1)])


MAKERS = [
    adamw,
    two,
    lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
    lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    lambda net: torch.optim.Adafactor(net.parameters(), lr=0.1),
    lambda net: torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.1), amsgrad=True),
]


@pytest.mark.parametrize("make", MAKERS)
def test_an_imported_optimizer_goes_on_exactly_as_the_exported_one(make: Any) -> None:
    net, optimizer = trained(make)
    tree = export_optimizer(net, optimizer)
    other = model()
    other.load_state_dict(net.state_dict())
    fresh = make(other)

    import_optimizer(other, fresh, OptimizerTree({k: v.clone() for k, v in tree.tensors.items()}, tree.members))
    step(net, optimizer)
    step(other, fresh)

    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_tensors_are_named_by_parameter_and_key() -> None:
    net, optimizer = trained(adamw)

    tensors = export_optimizer(net, optimizer).tensors

    assert sorted(tensors)[:3] == ["0.bias::exp_avg", "0.bias::exp_avg_sq", "0.bias::step"]
    assert tensors["1.weight::exp_avg"].shape == (2, 4)


def test_an_optimizer_of_another_instance_is_pointed_to_the_model() -> None:
    net, optimizer = trained(adamw)
    tree = export_optimizer(net, optimizer)
    loaded = model()

    import_optimizer(loaded, optimizer, tree)

    held = optimizer.param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in loaded.parameters()]
    assert set(optimizer.state) == set(held)


def renamed(net: nn.Module) -> nn.Module:
    return nn.ModuleDict({"first": net[0], "second": net[1]})  # type: ignore[index]


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (lambda: (net := model(), torch.optim.SGD(net.parameters(), lr=1.0)), "saved AdamW, now SGD"),
        (lambda: (net := renamed(model()), adamw(net)), "0.weight is missing now"),
        (lambda: (net := model(), torch.optim.AdamW(list(net.parameters())[::-1])), "in another order"),
        (lambda: (net := model(), torch.optim.AdamW(list(net.parameters())[1:])), "0.weight is missing now"),
        (lambda: (net := model(width=5), adamw(net)), "0.weight::exp_avg: saved [4, 3], now [5, 3]"),
        (
            lambda: (
                net := model(),
                torch.optim.AdamW([{"params": net[0].parameters()}, {"params": net[1].parameters()}]),
            ),
            "saved 1 parameter groups, now 2",
        ),
    ],
)
def test_another_optimizer_or_model_is_refused_with_the_difference(now: Any, message: str) -> None:
    tree = export_optimizer(*trained(adamw))
    net, optimizer = now()

    with pytest.raises(ResumeMismatchError) as raised:
        import_optimizer(net, optimizer, tree)

    assert message in str(raised.value)
    assert not optimizer.state


def test_many_differences_are_listed_up_to_a_limit() -> None:
    net = nn.ModuleDict({f"layer{index}": nn.Linear(1, 1) for index in range(9)})
    tree = export_optimizer(net, torch.optim.AdamW(net.parameters()))
    other = nn.ModuleDict({f"block{index}": nn.Linear(1, 1) for index in range(9)})

    with pytest.raises(ResumeMismatchError, match=r"and 28 more"):
        import_optimizer(other, torch.optim.AdamW(other.parameters()), tree)


def test_a_parameter_that_the_model_does_not_have_cannot_be_saved() -> None:
    stray = nn.Parameter(torch.ones(7))

    with pytest.raises(ValueError, match=r"shape \[7\] that the model does not have"):
        export_optimizer(model(), torch.optim.SGD([stray], lr=1.0))


def test_a_value_without_an_exact_form_cannot_be_saved() -> None:
    net, optimizer = trained(adamw)
    optimizer.state[net[0].weight]["history"] = object()  # type: ignore[index]

    with pytest.raises(TypeError, match=r"optimizer state history of 0\.weight: a object"):
        export_optimizer(net, optimizer)


def test_no_optimizer_is_an_empty_tree() -> None:
    assert export_optimizer(model(), None) == ({}, [])
