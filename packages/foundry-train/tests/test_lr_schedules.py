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


def test_own_schedule_is_imported_by_name_and_its_result_is_checked(tmp_path, monkeypatch):
    (tmp_path / "my_rates.py").write_text("def half(step, shape): return 0.5\ndef wild(step, shape): return 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert learning_rate_function("my_rates:half", SHAPE)(50) == pytest.approx(0.2 + 1.8 * 0.5)
    with pytest.raises(ConfigError, match="must be between 0 and 1"):
        learning_rate_function("my_rates:wild", SHAPE)(50)
