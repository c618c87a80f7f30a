"""Which parameter gets which optimizer and which decay, and that each one learns."""

import pytest
import torch
from torch import nn

from foundry_config import TrainingConfig
from foundry_config.errors import ConfigError
from foundry_train.optimizers import OPTIMIZERS, OptimizerGroup, hidden_matrices, make_optimizer

CPU = torch.device("cpu")


class Blocks(nn.Module):
    """An embedding, two matrices with biases, a norm and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids)
        return self.head(self.norm(hidden + self.down(torch.relu(self.up(hidden)))))


def settings(**changes):
    return TrainingConfig(output_dir="run", learning_rate=0.02, weight_decay=0.1, **changes)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_lowers_the_loss_of_a_small_problem(name):
    torch.manual_seed(0)
    model = Blocks()
    optimizer = make_optimizer(model, settings(optimizer=name), CPU)
    ids = torch.arange(11)

    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(ids), ids.roll(1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_parameter_is_updated_by_exactly_one_optimizer_and_only_matrices_decay(name):
    model = Blocks()

    optimizer = make_optimizer(model, settings(optimizer=name), CPU)

    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(map(id, held)) == sorted(id(parameter) for parameter in model.parameters())
    for group in optimizer.param_groups:
        expected = {0.1} if group["params"][0].ndim >= 2 else {0.0}
        assert {group["weight_decay"]} == expected
        assert len({parameter.ndim >= 2 for parameter in group["params"]}) == 1


def test_muon_takes_hidden_matrices_and_leaves_embedding_head_and_vectors_to_adamw():
    model = Blocks()

    muon, adamw = make_optimizer(model, settings(optimizer="muon"), CPU).optimizers

    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(model.up.weight), id(model.down.weight)]
    assert hidden_matrices(model) == [model.up.weight, model.down.weight]


class StateSpace(nn.Module):
    """Parameters of the shapes and names that mamba and rwkv have."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj = nn.Linear(8, 16, bias=False)
        self.conv1d = nn.Conv1d(16, 16, 4, groups=16)
        self.A_log = nn.Parameter(torch.zeros(16, 4))
        self.time_mix_key = nn.Parameter(torch.zeros(1, 1, 8))
        self.gate_up_proj = nn.Parameter(torch.zeros(2, 8, 8))  # experts


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_rates_and_mixing_vectors_kept_as_matrices_neither_decay_nor_go_to_muon(name):
    model = StateSpace()

    optimizer = make_optimizer(model, settings(optimizer=name), CPU)

    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == {
        "A_log": 0.0,
        "time_mix_key": 0.0,
        "gate_up_proj": 0.1,
        "in_proj.weight": 0.1,
        "conv1d.weight": 0.1,
        "conv1d.bias": 0.0,
    }
    assert hidden_matrices(model) == [model.in_proj.weight]


def test_muon_refuses_a_model_without_hidden_matrices():
    with pytest.raises(ConfigError, match="use adamw"):
        make_optimizer(nn.Embedding(4, 4), settings(optimizer="muon"), CPU)


def test_adamw_equals_torch_with_the_settings_of_the_config():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    group = make_optimizer(ours, settings(adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6), CPU)
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.02, betas=(0.8, 0.95), eps=1e-6)

    for step in range(5):
        x = torch.full((2, 4), float(step))
        for model, optimizer in ((ours, group), (theirs, reference)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_learning_rate_reaches_every_group_of_every_member():
    group = make_optimizer(Blocks(), settings(optimizer="muon"), CPU)

    group.set_learning_rate(0.125)

    assert {entry["lr"] for entry in group.param_groups} == {0.125}


def test_zero_grad_drops_gradients_instead_of_filling_them_with_zeros():
    layer = nn.Linear(2, 2)
    group = OptimizerGroup([torch.optim.SGD(layer.parameters(), lr=0.1)])
    layer(torch.ones(1, 2)).sum().backward()

    group.zero_grad()

    assert layer.weight.grad is None and layer.bias.grad is None


def test_frozen_parameters_are_left_out():
    model = Blocks()
    model.up.weight.requires_grad_(False)

    optimizer = make_optimizer(model, settings(), CPU)

    assert all(p is not model.up.weight for group in optimizer.param_groups for p in group["params"])


def test_unknown_optimizer_names_the_nearest_one():
    with pytest.raises(ConfigError, match="Did you mean 'adamw'"):
        make_optimizer(Blocks(), settings(optimizer="adamv"), CPU)


OWN = """
import torch

def plain(model, training, device): return torch.optim.SGD(model.parameters(), lr=training.learning_rate)
def pair(model, training, device): return (plain(model, training, device),)
def numbers(model, training, device): return [1, 2]
def nothing(model, training, device): return None
def empty(model, training, device): return []
def array(model, training, device): return torch.ones(3).numpy()
def raises(model, training, device): return model.no_such_layer
def wrong_setting(model, training, device): return torch.optim.SGD(model.parameters(), lr=-1.0)
def searches(model, training, device): return torch.optim.LBFGS(model.parameters())
def elsewhere(model, training, device): return torch.optim.SGD(torch.nn.Linear(2, 2).parameters())
def some(model, training, device): return torch.optim.SGD(model.norm.parameters())
def default(model, training, device): return torch.optim.SGD(model.parameters())
def uneven(model, training, device): return torch.optim.SGD([
    {"params": model.embedding.parameters(), "lr": 0.1}, {"params": model.up.parameters()}], lr=0.5)
def scaled(model, training, device): return torch.optim.SGD([
    {"params": model.embedding.parameters(), "lr_scale": 0.25}, {"params": [*model.up.parameters(),
    *model.down.parameters(), *model.norm.parameters()]}], lr=training.learning_rate)
def misscaled(model, training, device): return torch.optim.SGD([
    {"params": model.parameters(), "lr_scale": float("nan")}])
def sparse(model, training, device): return torch.optim.SparseAdam(list(model.parameters()))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Make the optimizer of a function that stands in a user's module."""
    (tmp_path / "my_optimizers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda function, model: make_optimizer(model, settings(optimizer=f"my_optimizers:{function}"), CPU)


@pytest.mark.parametrize("function", ["plain", "pair"])
def test_own_optimizer_is_imported_by_name(own, caplog, function):
    group = own(function, Blocks())

    assert isinstance(group.optimizers[0], torch.optim.SGD)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("numbers", r"'my_optimizers:numbers' must return a torch\.optim\.Optimizer or a list of them; .* \[1, 2\]"),
        ("nothing", r"must return a torch\.optim\.Optimizer .* it returned None"),
        ("array", r"must return a torch\.optim\.Optimizer .* it returned array"),
        ("empty", r"must return a torch\.optim\.Optimizer .* it returned an empty list"),
        ("raises", r"raised AttributeError: .*no_such_layer.* \(my_optimizers.py, line 10\)"),
        ("wrong_setting", r"raised ValueError: Invalid learning rate: -1.0 \(my_optimizers.py, line 11\)"),
        ("searches", r"'my_optimizers:searches': LBFGS wants to compute the loss itself"),
        ("elsewhere", r"holds no parameter of the model"),
        ("uneven", r"learning rates 0\.1, 0\.5; .* schedule set one for all, .* 'lr_scale': 0\.1"),
        ("misscaled", r"lr_scale must be a number from 0 on, not nan"),
    ],
)
def test_own_optimizer_that_cannot_train_says_why(own, function, told):
    with pytest.raises(ConfigError, match=told):
        own(function, Blocks())


def test_a_group_of_an_own_optimizer_keeps_its_factor_under_the_schedule(own, caplog):
    group = own("scaled", Blocks())

    group.set_learning_rate(0.5)

    assert [entry["lr"] for entry in group.param_groups] == [0.125, 0.5]
    assert caplog.records == []


def test_a_learning_rate_that_the_schedule_replaces_is_warned_about(own, caplog):
    own("default", Blocks())

    assert "made with a learning rate of 0.001; training.learning_rate: 0.02 and its schedule replace it" in caplog.text


def test_parameters_that_no_optimizer_holds_are_named(own, caplog):
    own("some", Blocks())

    told = "these 5 never change: embedding.weight, up.weight, up.bias, down.weight, down.bias"
    assert told in caplog.text


def test_own_optimizer_that_fails_in_a_step_is_named(own):
    model = Blocks()
    group = own("sparse", model)
    model(torch.arange(11)).sum().backward()

    with pytest.raises(ConfigError, match=r"'my_optimizers:sparse' raised RuntimeError: .*dense"):
        group.step()
