"""Spacings of checkpoints: worked examples, and what holds for every run."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config import ConfigError
from foundry_config.checkpoint_schedule import (
    PRESETS,
    SPACINGS,
    Counter,
    RunShape,
    entry_problem,
    epoch_ends,
    evenly,
    every_steps,
    every_words,
    join,
    linear,
    log,
    points_of,
    powers_of_two,
)


def run(steps_per_epoch, total_steps, *, words_per_step=1000):
    def reached(count):
        step = -(-count // words_per_step)
        return step if step <= total_steps else None

    def after(step):
        return step * words_per_step

    return RunShape(
        steps_per_epoch, total_steps, tokens=Counter("tokens", after, reached), words=Counter("words", after, reached)
    )


def steps(points):
    return [point.step for point in points]


shapes = st.builds(
    lambda spe, epochs, cut: run(spe, max(spe * epochs - cut, 1)),
    st.integers(1, 90),
    st.integers(1, 7),
    st.integers(1, 90),
)
entries = st.one_of(
    st.sampled_from(sorted(PRESETS)),
    st.builds(lambda name, n: {name: n}, st.sampled_from(sorted(set(SPACINGS) - {"log"})), st.integers(1, 500)),
    st.builds(lambda base, gap: {"log": base, "min_interval": gap}, st.floats(1.01, 50), st.integers(1, 60)),
    st.integers(0, 500),
)


def test_twenty_checkpoints_over_an_epoch_of_333_steps_are_even_and_hold_both_ends():
    found = steps(evenly(run(333, 999), 20))

    assert len(found) == 20
    assert (found[0], found[-1]) == (0, 333)
    assert {b - a for a, b in itertools.pairwise(found)} == {17, 18}


def test_log_spacing_doubles_within_every_later_epoch_and_ends_with_it():
    found = steps(log(run(333, 999), 2))

    assert found[:9] == [334, 336, 340, 348, 364, 396, 460, 588, 666]
    assert found[9:] == [667, 669, 673, 681, 697, 729, 793, 921, 999]


def test_linear_spacing_keeps_its_distance_within_later_epochs():
    assert steps(linear(run(100, 250), 30)) == [130, 160, 190, 200, 230, 250]


def test_the_pythia_preset_makes_its_154_checkpoints():
    found = steps(PRESETS["pythia"](run(10**6, 143_000)))

    assert found == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 143_001, 1000)]
    assert len(found) == 154


@pytest.mark.parametrize(
    ("preset", "largest", "count"), [("babylm-strict-small", 100, 19), ("babylm-strict", 1000, 28)]
)
def test_babylm_presets_have_the_labels_that_its_evaluation_expects(preset, largest, count):
    found = list(PRESETS[preset](run(10**6, 10**9)))

    assert len(found) == count
    assert [point.label for point in found[:11]] == [f"chck_{n}M" for n in [*range(1, 11), 20]]
    assert found[-1].label == f"chck_{largest}M"
    assert found[-1].step == largest * 1000


def test_words_are_labelled_only_by_whole_millions():
    found = list(every_words(run(10**5, 3000), 500_000))

    assert [(point.step, point.label) for point in found[:4]] == [
        (500, None),
        (1000, "chck_1M"),
        (1500, None),
        (2000, "chck_2M"),
    ]


def test_powers_of_two_start_with_the_untrained_model():
    assert steps(powers_of_two(run(100, 100), 20)) == [0, 1, 2, 4, 8, 16]


def test_every_distance_starts_after_the_first():
    assert steps(every_steps(run(10, 35), 10)) == [10, 20, 30]


def test_the_end_of_a_cut_epoch_is_not_an_epoch_end():
    assert steps(epoch_ends(run(10, 35))) == [10, 20, 30]


def test_a_run_shorter_than_an_epoch_is_spread_over_whole():
    assert steps(evenly(run(1000, 10), 6)) == [0, 2, 4, 6, 8, 10]


def test_checkpoints_closer_than_the_smallest_distance_become_fewer():
    assert steps(evenly(run(10, 10), 20, min_interval=4)) == [0, 5, 10]
    assert steps(evenly(run(10, 10), 1)) == [10]
    assert steps(log(run(20, 40), 2, min_interval=5)) == [26, 31, 40]


def test_points_of_one_step_are_one_checkpoint_with_every_reason_and_the_last_label():
    shape = run(10, 20, words_per_step=1_500_000)
    points = [*points_of({"every_words": 1_000_000}, shape), *points_of(1, shape)]

    first = join(points, 20)[0]

    assert (first.step, first.label) == (1, "chck_1M")
    assert first.reasons == ("1,000,000 words", "step 1")


@given(shapes, st.lists(entries, max_size=4))
def test_milestones_rise_lie_within_the_run_have_reasons_and_hold_its_end(shape, schedule):
    points = [point for entry in schedule for point in points_of(entry, shape)]

    milestones = join(points, shape.total_steps)

    found = [milestone.step for milestone in milestones]
    assert found == sorted(set(found))
    assert all(0 <= step <= shape.total_steps for step in found)
    assert found[-1] == shape.total_steps
    assert all(milestone.reasons for milestone in milestones)
    assert {step for step in steps(points) if step <= shape.total_steps} <= set(found)


@given(entries)
def test_every_entry_that_is_found_right_makes_points(entry):
    assert entry_problem(entry) is None
    assert steps(points_of(entry, run(50, 120))) is not None


@given(shapes, st.integers(1, 60), st.integers(1, 40))
def test_even_points_differ_by_at_most_one_in_distance_and_keep_the_smallest(shape, count, gap):
    found = steps(evenly(shape, count, min_interval=gap))

    distances = [b - a for a, b in itertools.pairwise(found)]
    assert max(distances, default=0) - min(distances, default=0) <= 1
    assert min(distances, default=gap) >= min(gap, shape.total_steps)
    assert len(found) <= count


@given(shapes, st.one_of(st.floats(1.01, 8), st.integers(1, 50)), st.integers(1, 40))
def test_later_epochs_end_with_a_checkpoint_and_keep_the_smallest_distance(shape, argument, gap):
    spacing = linear if isinstance(argument, int) else log
    found = steps(spacing(shape, argument, min_interval=gap))

    ends = [*range(2 * shape.steps_per_epoch, shape.total_steps + 1, shape.steps_per_epoch)]
    assert set(ends) <= set(found)
    assert found == sorted(set(found))
    close = [b for a, b in itertools.pairwise(found) if b - a < gap and b not in ends and b != shape.total_steps]
    assert close == []


@pytest.mark.parametrize("entry", [{"every_steps": 1}, {"every_words": 1}, {"every_tokens": 1}, {"linear": 1}])
def test_more_checkpoints_than_anyone_could_keep_are_refused(entry, monkeypatch):
    monkeypatch.setattr("foundry_config.checkpoint_schedule.MAX_CHECKPOINTS", 1000)
    shape = run(10, 10_000, words_per_step=1)

    with pytest.raises(ConfigError, match="choose a wider spacing"):
        join(points_of(entry, shape), shape.total_steps)
