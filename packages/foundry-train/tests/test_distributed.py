"""Ranks: two processes equal one, and the environment of torchrun is read with care."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from foundry_config import TrainingConfig
from foundry_config.errors import ConfigError
from foundry_data.torch_loader import GlobalBatch
from foundry_model.loss import TokenLoss
from foundry_train import distributed
from foundry_train.distributed import World, lost_rank, open_world
from foundry_train.optimizers import make_optimizer
from foundry_train.precision import make_precision
from foundry_train.step import Outcome, Updater

CPU = torch.device("cpu")
ROWS, LENGTH, VOCABULARY = 6, 7, 13


class Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.head = nn.Linear(8, VOCABULARY)
        self.unused = nn.Linear(2, 2)

    def forward(self, input_ids: torch.Tensor) -> Output:
        return Output(self.head(self.embedding(input_ids)))


def share(rank: int, size: int, *, rows: int = ROWS) -> GlobalBatch:
    """Rank `rank`'s part of a batch with unevenly spread targets."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCABULARY, (rows, LENGTH), generator=generator)
    labels = ids.clone()
    labels[0, 2:] = -100
    labels[1:2, 2:] = -100
    mine = slice(rows * rank // size, rows * (rank + 1) // size)
    return GlobalBatch(
        input_ids=ids[mine],
        labels=labels[mine],
        position_ids=None,
        attention_mask=None,
        target_tokens=int((labels[:, 1:] != -100).sum()),
        sequences=rows,
        tokens=ids.numel(),
        words=0,
        sequence_ids=torch.arange(rows).numpy()[mine],
        epoch=0,
        position=0,
    )


def make_updater(world: World, **changes) -> Updater:
    model = TinyModel()
    training = TrainingConfig(output_dir="run", learning_rate=0.05)
    settings = {"micro_batch": 2, "max_grad_norm": 0.5} | changes
    loss = settings.pop("loss", None) or TokenLoss(model)
    updater = Updater(
        loss,
        model,
        make_optimizer(model, training, CPU),
        world=world,
        precision=make_precision("fp32", CPU),
        **settings,
    )
    updater.model = model
    return updater


def flat(model: nn.Module) -> list[float]:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).tolist()


def in_rank(rank: int, size: int, folder: str, body) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    try:
        result = body(World(rank, size, CPU))
        with open(f"{folder}/{rank}.json", "w") as file:  # noqa: PTH123
            json.dump(result, file)
    finally:
        dist.destroy_process_group()


def on_ranks(size: int, folder: Path, body) -> list:
    """Run `body` on every rank, forked from a fresh process: this one may have threads that a fork does not survive."""
    command = [sys.executable, __file__, body.__name__, str(size), str(folder)]
    subprocess.run(command, check=True, timeout=240)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def fork_ranks(name: str, size: str, folder: str) -> None:
    torch.set_num_threads(1)
    mp.start_processes(in_rank, args=(int(size), folder, globals()[name]), nprocs=int(size), start_method="fork")


def three_updates(world: World) -> dict:
    updater = make_updater(world)
    results = [updater.update(share(world.rank, world.size, rows=rows)) for rows in (ROWS, ROWS, 1)]
    return {
        "losses": [r.loss for r in results],
        "norms": [r.grad_norm for r in results],
        "weights": flat(updater.model),
    }


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_give_the_loss_norm_and_weights_of_one_process(tmp_path):
    expected = three_updates(World())

    found = on_ranks(2, tmp_path, three_updates)

    assert found[0] == found[1]
    assert found[0]["losses"] == pytest.approx(expected["losses"], rel=1e-6)
    assert found[0]["norms"] == pytest.approx(expected["norms"], rel=1e-5)
    assert found[0]["weights"] == pytest.approx(expected["weights"], rel=1e-5, abs=1e-6)


def trouble_on_rank_one(world: World) -> dict:
    asked = {"stop": False, "fail": world.rank == 1}
    updater = make_updater(world, should_stop=lambda: asked["stop"])
    inner = updater._loss_function

    def failing(*tensors):
        if asked.pop("fail", False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(*tensors)

    updater._loss_function = failing
    first = updater.update(share(world.rank, world.size))
    before = flat(updater.model)
    asked["stop"] = world.rank == 1
    second = updater.update(share(world.rank, world.size))
    return {
        "micro_batch": updater.micro_batch,
        "outcomes": [first.outcome.value, second.outcome.value],
        "unchanged": flat(updater.model) == before,
        "main": [world.main_says(world.rank == 0), world.main_says(world.rank == 1)],
        "any": [world.any_says(world.rank == 1), world.any_says(False)],
    }


@pytest.mark.slow
@pytest.mark.distributed
def test_trouble_on_one_rank_is_everyones(tmp_path):
    found = on_ranks(2, tmp_path, trouble_on_rank_one)

    assert found[0] == found[1]
    assert found[0]["micro_batch"] == 1
    assert found[0]["outcomes"] == [Outcome.UPDATED.value, Outcome.STOPPED.value] and found[0]["unchanged"]
    assert found[0]["main"] == [True, False] and found[0]["any"] == [True, False]


def memory_for_one_sequence_a_rank(world: World) -> dict:
    updater = make_updater(world)
    inner = updater._loss_function

    def failing(ids, *tensors):
        if len(ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(ids, *tensors)

    updater._loss_function = failing
    result = updater.update(share(world.rank, world.size, rows=3))  # one sequence for rank 0, two for rank 1
    return {"micro_batch": updater.micro_batch, "outcome": result.outcome.value}


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_with_unequal_shares_halve_alike(tmp_path):
    found = on_ranks(2, tmp_path, memory_for_one_sequence_a_rank)

    assert found == [{"micro_batch": 1, "outcome": Outcome.UPDATED.value}] * 2


def different_models(world: World) -> list[float]:
    model = TinyModel()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(world.rank)
    world.broadcast_parameters(model)
    world.barrier()
    return flat(model)


@pytest.mark.slow
@pytest.mark.distributed
def test_all_ranks_begin_with_the_parameters_of_the_first(tmp_path):
    first, second = on_ranks(2, tmp_path, different_models)

    assert first == second == pytest.approx(flat(TinyModel()))


def test_buckets_hold_every_gradient_once_and_stay_small(monkeypatch):
    monkeypatch.setattr("foundry_train.distributed.BUCKET_BYTES", 100)
    from foundry_train.distributed import _buckets

    parameters = [nn.Parameter(torch.ones(n)) for n in (10, 10, 10, 60, 1)]
    buckets = list(_buckets(parameters))

    assert [[g.numel() for g in bucket] for bucket in buckets] == [[10, 10], [10], [60], [1]]
    assert all(p.grad is not None for p in parameters)


def test_one_process_is_a_world_of_its_own(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    with open_world("cpu") as world:
        assert (world.rank, world.size, world.is_main, world.device) == (0, 1, True, CPU)
        assert world.sum(torch.ones(2)).tolist() == [1.0, 1.0]
        assert world.any_says(True) and not world.main_says(False)


def test_torchrun_environment_joins_a_group_and_leaves_it(monkeypatch, tmp_path):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(distributed, "rendezvous", lambda *_, **__: iter([("store", 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: calls.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("left"))

    with open_world("cpu") as world:
        assert (world.rank, world.size) == (0, 2)
    assert calls == ["gloo", "left"]

    # to leave a group is to wait for the others, who may wait for this rank
    with pytest.raises(ValueError, match="of this rank"), open_world("cpu"):
        raise ValueError("of this rank")
    assert calls == ["gloo", "left", "gloo"]


def test_ranks_of_one_machine_cannot_share_a_card(monkeypatch):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)

    with (
        pytest.raises(ConfigError, match=r"'cuda:0' is one card for all 2 ranks; write cuda, a card"),
        open_world("cuda:0"),
    ):
        pass


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "two"), ("RANK", "7")])
def test_a_senseless_environment_of_ranks_is_refused(monkeypatch, name, value):
    for key, default in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, default)
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=name), open_world("cpu"):
        pass


if __name__ == "__main__":
    fork_ranks(*sys.argv[1:])


def test_ranks_without_an_address_to_meet_at_are_told_how_to_start(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    told = r"the 2 ranks cannot be joined: .*MASTER_ADDR.*; start them all with torchrun"
    with pytest.raises(ConfigError, match=told), open_world("cpu"):
        pass


def test_a_rank_that_is_gone_is_told_from_other_failures():
    gone = RuntimeError("[/__w/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer")

    told = lost_rank(gone)

    assert told is not None and told.exit_code == 10 and "Run the same command again" in str(told)
    assert lost_rank(torch.distributed.DistNetworkError("timed out")) is not None
    assert lost_rank(RuntimeError("mat1 and mat2")) is None
