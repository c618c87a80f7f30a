"""Learning rates against their closed forms."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import ConfigError
from foundry_train.lr_schedules import LR_SCHEDULES, LrShape, learning_rate_function

shapes = st.builds(
    LrShape,
    peak=st.floats(1e-6, 1.0),
    total_steps=st.integers(2, 5000),
    warmup_steps=st.just(0),
    min_ratio=st.floats(0, 1),
    decay_ratio=st.floats(0, 1),
    power=st.floats(0.25, 4),
).flatmap(lambda shape: st.integers(0, shape.total_steps - 1).map(lambda w: shape._replace(warmup_steps=w)))
names = st.sampled_from(sorted(LR_SCHEDULES))


@pytest.mark.slow
@given(names, shapes)
def test_every_schedule_rises_to_its_peak_and_then_never_rises_again(name, shape):
    rate = learning_rate_function(name, shape)

    warmup = [rate(step) for step in range(shape.warmup_steps)]
    assert warmup == pytest.approx([shape.peak * (step + 1) / shape.warmup_steps for step in range(shape.warmup_steps)])
    rest = [rate(step) for step in range(shape.warmup_steps, shape.total_steps)]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(rest))


@pytest.mark.slow
@given(names, shapes)
def test_every_rate_lies_between_the_floor_and_the_peak_and_the_first_update_moves(name, shape):
    rate = learning_rate_function(name, shape)

    after_warmup = [rate(step) for step in range(shape.warmup_steps, shape.total_steps)]
    assert all(shape.peak * shape.min_ratio * (1 - 1e-9) <= value <= shape.peak * (1 + 1e-9) for value in after_warmup)
    assert rate(0) > 0


@given(names, shapes, st.integers(0, 5000))
def test_a_rate_depends_on_nothing_but_the_step(name, shape, step):
    rate, other = learning_rate_function(name, shape), learning_rate_function(name, shape)
    step = min(step, shape.total_steps - 1)

    for earlier in range(min(step, 20)):
        rate(earlier)

    assert rate(step) == other(step)


SHAPE = LrShape(peak=2.0, total_steps=110, warmup_steps=10, min_ratio=0.1, decay_ratio=0.2, power=2.0)
CLOSED_FORMS = {
    "constant": lambda step: 2.0,
    "linear": lambda step: 0.2 + 1.8 * (1 - (step - 10) / 100),
    "cosine": lambda step: 0.2 + 1.8 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2,
    "polynomial": lambda step: 0.2 + 1.8 * (1 - (step - 10) / 100) ** 2,
    "inverse_sqrt": lambda step: 0.2 + 1.8 * min(1.0, math.sqrt(10 / (step + 1))),
    "wsd": lambda step: 2.0 if step < 88 else 0.2 + 1.8 * (110 - step) / 23,
}


@pytest.mark.parametrize("name", sorted(LR_SCHEDULES))
def test_schedule_equals_its_closed_form(name):
    rate = learning_rate_function(name, SHAPE)

    expected = [CLOSED_FORMS[name](step) for step in range(10, 110)]
    assert [rate(step) for step in range(10, 110)] == pytest.approx(expected)


def test_unknown_schedule_names_the_nearest_one():
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        learning_rate_function("cosin", SHAPE)


@pytest.mark.parametrize("total", [100, 300, 1000])
@pytest.mark.parametrize("percent", range(1, 30))
def test_wsd_decays_over_exactly_the_share_of_the_steps_that_was_asked_for(total, percent):
    shape = LrShape(peak=1.0, total_steps=total, decay_ratio=percent / 100)
    rate = learning_rate_function("wsd", shape)

    assert sum(rate(step) < 1.0 for step in range(total)) == total * percent // 100


OWN = """
import numpy
import torch

def half(step, shape): return 0.5
def tensor(step, shape): return torch.tensor(0.5)
def array(step, shape): return numpy.float32(0.5)
def wild(step, shape): return 2.0
def nothing(step, shape): return None
def several(step, shape): return torch.ones(2)
def text(step, shape): return "0.5"
def huge(step, shape): return 10**400
def undefined(step, shape): return float("nan")
def raises(step, shape): return 1 / (shape.total_steps - 1 - step)
def of_two_steps(step): return 0.5
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_rates.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("function", ["half", "tensor", "array"])
def test_own_schedule_is_imported_by_name_and_gives_plain_numbers(own, function):
    rate = learning_rate_function(f"my_rates:{function}", SHAPE)(50)

    assert type(rate) is float and rate == pytest.approx(0.2 + 1.8 * 0.5)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("wild", "returned 2.0 for step 10; it must be between 0 and 1"),
        ("nothing", "returned None for step 10; it must be between 0 and 1"),
        ("several", "returned tensor.* must be between 0 and 1"),
        ("text", "returned '0.5' for step 10; it must be between 0 and 1"),
        ("huge", "returned 1000"),
        ("undefined", "returned nan for step 10"),
        ("raises", r"raised ZeroDivisionError: division by zero \(my_rates.py, line 14\)"),
        ("of_two_steps", "raised TypeError: of_two_steps.. takes 1 positional argument"),
    ],
)
def test_own_schedule_that_gives_no_share_is_refused_before_the_first_step(own, function, told):
    with pytest.raises(ConfigError, match=told):
        learning_rate_function(f"my_rates:{function}", SHAPE)
