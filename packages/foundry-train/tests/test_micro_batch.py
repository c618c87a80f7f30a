"""Finding the micro-batch: by trying, by estimate, from memory."""

import functools
import json
import logging

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foundry_config import config_from_dict
from foundry_config.errors import ConfigError, MemoryExhaustedError
from foundry_model import MemoryEstimate, TokenLoss
from foundry_train import micro_batch
from foundry_train.distributed import World
from foundry_train.micro_batch import find_micro_batch, first_micro_batch, largest_by_estimate, largest_that_fits

CPU = torch.device("cpu")
ZERO = MemoryEstimate(0, 0, 0, 0, 0, total=0)


def make_config(size, *, accumulation: int = 1, **training):
    settings = {"output_dir": "run", "learning_rate": 0.1, "gradient_accumulation_steps": accumulation}
    return config_from_dict(
        {
            "experiment_name": "memory",
            "data": {"source_corpus": "none", "batch_size": 12, "max_sequence_length": 8},
            "tokenizer": {"vocab_size": 300},
            "model": {
                "layers": 1,
                "embedding_size": 8,
                "hidden_size": 8,
                "intermediate_hidden_size": 8,
                "attention_heads": 1,
            },
            "training": settings | {"micro_batch_size": size} | training,
        }
    )


def find(config, run_dir, world: World | None = None, loss_function=None):
    return find_micro_batch(
        config,
        world or World(),
        run_dir,
        loss_function=loss_function,
        model=torch.nn.Linear(2, 2),
        optimizer=None,
        precision=None,
    )


@pytest.mark.parametrize(
    ("size", "accumulation", "ranks", "expected"),
    [(None, 1, 1, 12), (None, 4, 1, 12), (None, 4, 2, 6), (5, 1, 1, 5), (12, 2, 1, 12), ("auto", 4, 2, 24)],
)
def test_the_first_micro_batch_is_what_the_config_says_within_the_share_of_the_rank(
    size, accumulation, ranks, expected
):
    world = World(0, ranks, CPU)

    assert first_micro_batch(make_config(size, accumulation=accumulation), world) == expected


@given(st.integers(1, 200), st.integers(1, 300))
def test_the_largest_share_that_fits_is_found_with_few_tries(start, limit):
    tries = []

    def attempt(size: int) -> None:
        tries.append(size)
        if size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = largest_that_fits(attempt, start, model=torch.nn.Identity(), device=CPU)

    assert found <= limit and (found == start or 2 * found + 1 > limit)
    assert len(tries) <= start.bit_length()


def test_not_even_one_sequence_is_an_error_with_advice():
    def attempt(size: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryExhaustedError, match="max_sequence_length"):
        largest_that_fits(attempt, 8, model=torch.nn.Identity(), device=CPU)


def test_other_errors_of_a_try_are_not_swallowed():
    def attempt(size: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        largest_that_fits(attempt, 8, model=torch.nn.Identity(), device=CPU)


def test_tries_leave_random_generators_and_running_statistics_alone():
    before, model = torch.get_rng_state(), torch.nn.BatchNorm1d(3)

    largest_that_fits(lambda size: model(torch.rand(size, 3)), 8, model=model, device=CPU, reserve_bytes=1000)

    assert torch.equal(before, torch.get_rng_state())
    assert model.num_batches_tracked == 0 and torch.equal(model.running_mean, torch.zeros(3))


def test_on_a_cpu_the_estimate_decides(caplog):
    assert largest_by_estimate(lambda size: size * 100, 16, available=1000) == 8
    with caplog.at_level(logging.WARNING):
        assert largest_by_estimate(lambda size: 10**9, 16, available=1000) == 1
    assert "may be too much" in caplog.text


def test_auto_takes_the_whole_batch_where_memory_cannot_be_estimated(tmp_path, monkeypatch, caplog):
    def estimate(*given, **options):
        raise ConfigError("the memory cannot be estimated")

    monkeypatch.setattr(micro_batch, "estimate_memory", estimate)

    assert find(make_config("auto"), tmp_path) == 12
    assert "micro_batch_size: auto takes all 12 sequences: the memory cannot be estimated" in caplog.text


def test_auto_is_found_once_and_remembered_for_the_same_conditions(tmp_path, monkeypatch):
    asked = []

    def estimate(config, world, size, chunked):
        asked.append(size)
        return size * 2**30

    monkeypatch.setattr(micro_batch, "_estimated_bytes", estimate)
    monkeypatch.setattr(micro_batch, "available_memory_bytes", lambda: 8 * 2**30)

    first = find(make_config("auto"), tmp_path)
    tries = len(asked)
    second = find(make_config("auto"), tmp_path)
    other = find(make_config("auto", precision="bf16"), tmp_path)

    assert first == second == other == 6 and tries == 2 and len(asked) == 4
    assert json.loads((tmp_path / "micro_batch.json").read_bytes())["micro_batch"] == 6


def test_the_estimate_is_told_whether_the_loss_goes_in_chunks(tmp_path, monkeypatch):
    told = []

    def estimate(*_, chunked_loss, **__):
        told.append(chunked_loss)
        return ZERO

    monkeypatch.setattr(micro_batch, "estimate_memory", estimate)

    for chunked in (True, False):
        find(make_config("auto"), None, loss_function=TokenLoss(torch.nn.Linear(2, 2), chunked=chunked))

    assert told == [True, False]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"key": {}, "micro_batch": 3}', b'{"micro_batch": -1}'])
def test_a_damaged_memory_is_ignored(tmp_path, monkeypatch, content):
    (tmp_path / "micro_batch.json").write_bytes(content)
    monkeypatch.setattr(micro_batch, "_estimated_bytes", lambda *_: 1)

    assert find(make_config("auto"), tmp_path) == 12


def test_a_given_size_is_not_looked_for(tmp_path):
    assert find(make_config(4), tmp_path) == 4 and not list(tmp_path.iterdir())


def test_a_try_is_a_forward_and_backward_pass_that_leaves_no_gradient():
    from foundry_train.optimizers import OptimizerGroup
    from foundry_train.precision import make_precision

    layer = torch.nn.Embedding(300, 1)
    seen = []

    def loss_function(ids, labels, positions, mask):
        seen.append((tuple(ids.shape), None if positions is None else positions.tolist(), layer.weight.grad is None))
        assert labels is not ids  # in training they are two tensors, too
        return layer(ids).sum(), None

    config = make_config("auto")
    group = OptimizerGroup([torch.optim.SGD(layer.parameters(), lr=0.1)])
    attempt = functools.partial(micro_batch._attempt, config, CPU, loss_function, group, make_precision("fp32", CPU))

    attempt(3)(3)
    assert seen == [((3, 8), None, True)] and layer.weight.grad is None
    # of several micro-batches, the second finds the gradients of the first
    attempt(7)(3)
    assert seen[1:] == [((3, 8), None, True), ((3, 8), None, False)] and layer.weight.grad is None


def test_a_try_with_packed_documents_has_several_in_a_row():
    from foundry_train.optimizers import OptimizerGroup
    from foundry_train.precision import make_precision

    layer = torch.nn.Embedding(300, 1)
    seen = []
    config = make_config("auto")
    config = msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, document_mask=True))
    group = OptimizerGroup([torch.optim.SGD(layer.parameters(), lr=0.1)])

    micro_batch._attempt(
        config,
        CPU,
        lambda ids, _labels, positions, _mask: (seen.append(positions), (layer(ids).sum(), None))[1],
        group,
        make_precision("fp32", CPU),
        2,
    )(2)

    assert seen[0].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]] * 2 and seen[0].is_contiguous()
