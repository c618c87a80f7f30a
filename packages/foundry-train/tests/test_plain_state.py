"""Small values survive JSON exactly: counters, settings, generators."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import NonFiniteError
from foundry_train.plain_values import decode_plain, encode_plain
from foundry_train.rng_state import capture_rng, gather_rng, restore_rng
from foundry_train.state import TrainState, state_from_json, state_to_json

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.sampled_from(["$tuple", "$float"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=12,
)


@pytest.mark.slow
@given(values)
def test_plain_values_survive_json_exactly(value: Any) -> None:
    decoded = decode_plain(json.loads(json.dumps(encode_plain(value), allow_nan=False)))

    assert decoded == value
    assert repr(decoded) == repr(value)


def test_nan_arrays_numpy_numbers_and_tensors_survive_too() -> None:
    value = {
        "nan": math.nan,
        "array": np.arange(3, dtype=np.uint32),
        "number": np.float64(0.1),
        "lr": torch.tensor(0.5),
    }

    decoded = decode_plain(json.loads(json.dumps(encode_plain(value), allow_nan=False)))

    assert math.isnan(decoded["nan"])
    assert decoded["array"].dtype == np.uint32 and decoded["array"].tolist() == [0, 1, 2]
    assert decoded["number"] == 0.1
    assert torch.equal(decoded["lr"], torch.tensor(0.5))


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.zeros(2), b"bytes"])
def test_a_value_without_an_exact_form_is_refused_by_place(value: Any) -> None:
    with pytest.raises(TypeError, match=r"scheduler\.best"):
        encode_plain({"best": value}, where="scheduler")


def test_the_state_of_a_run_survives_json() -> None:
    state = TrainState(step=9, loss_ema=0.1 + 0.2, micro_batch=4, extra={"a": [1, 2]})

    assert state_from_json(json.loads(json.dumps(state_to_json(state)))) == state


def test_a_state_that_is_not_finite_is_refused_with_its_field() -> None:
    with pytest.raises(NonFiniteError, match=r"step 3 cannot be saved: loss_ema is nan, extra\.x\[1\] is inf"):
        state_to_json(TrainState(step=3, loss_ema=math.nan, extra={"x": [1.0, math.inf]}))


def test_all_generators_go_on_as_if_nothing_had_happened() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    np.random.standard_normal()  # leaves half of a pair behind
    captured = capture_rng()
    captured = captured._replace(plain=json.loads(json.dumps(captured.plain)))
    expected = random.random(), np.random.standard_normal(), torch.rand(1).item()
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)

    restore_rng(captured)

    assert (random.random(), np.random.standard_normal(), torch.rand(1).item()) == expected


def test_the_generator_of_a_card_is_that_of_the_process_whatever_its_number(monkeypatch) -> None:
    cards = {0: torch.tensor([10]), 1: torch.tensor([11])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: cards[device.index])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: cards.update({device.index: state}))

    captured = capture_rng(torch.device("cuda:1"))
    restore_rng(captured, torch.device("cuda:0"))
    assert cards[0].item() == 11

    # as earlier checkpoints have it, with a state for every card
    earlier = {
        "torch.cpu": captured.tensors["torch.cpu"],
        "torch.cuda.0": torch.tensor([20]),
        "torch.cuda.1": torch.tensor([21]),
    }
    restore_rng(captured._replace(tensors=earlier), torch.device("cuda:1"))
    assert (cards[0].item(), cards[1].item()) == (11, 21)


def test_one_process_gathers_its_own_generators_without_changing_them() -> None:
    before = torch.get_rng_state()

    [state] = gather_rng(torch.device("cpu"))

    assert torch.equal(state.tensors["torch.cpu"], before)
    assert torch.equal(torch.get_rng_state(), before)
