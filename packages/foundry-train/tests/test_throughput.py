"""Rates against a clock that the test moves."""

import logging

import pytest

from foundry_train.throughput import Throughput


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_steps(throughput: Throughput, clock: Clock, seconds: list[float], tokens: int = 1000) -> None:
    for elapsed in seconds:
        clock.now += elapsed
        throughput.step(tokens)


def make(clock: Clock, **changes) -> Throughput:
    return Throughput(**({"world_size": 1, "flops_per_token": None, "peak_flops": None, "clock": clock} | changes))


def test_a_constant_pace_is_reported_exactly_and_the_slow_first_step_is_forgotten():
    clock = Clock()
    throughput = make(clock, world_size=2)

    run_steps(throughput, clock, [30.0, 0.5, 0.5, 0.5])

    assert throughput.tokens_per_second == pytest.approx(2000.0)
    assert throughput.tokens_per_second_per_device == pytest.approx(1000.0)
    assert throughput.average == pytest.approx(2000.0)
    assert throughput.eta_seconds(10) == pytest.approx(5.0)


def test_the_first_step_alone_is_the_best_guess():
    clock = Clock()
    throughput = make(clock)

    run_steps(throughput, clock, [2.0])

    assert throughput.tokens_per_second == throughput.average == pytest.approx(500.0)


def test_pauses_for_evaluations_and_saves_do_not_count():
    clock = Clock()
    throughput = make(clock)
    run_steps(throughput, clock, [1.0, 1.0])

    clock.now += 60
    throughput.resume_clock()
    run_steps(throughput, clock, [1.0])

    assert throughput.tokens_per_second == pytest.approx(1000.0)


def test_a_change_of_pace_is_followed_within_some_ten_seconds():
    clock = Clock()
    throughput = make(clock)

    run_steps(throughput, clock, [1.0] * 20 + [0.1] * 300)

    assert throughput.tokens_per_second == pytest.approx(10_000, rel=0.06)


def test_one_slow_step_among_quick_ones_counts_by_its_time():
    clock = Clock()
    throughput = make(clock)

    run_steps(throughput, clock, [1.0] + [0.01] * 50 + [0.5] + [0.01] * 50)

    assert throughput.tokens_per_second == pytest.approx(101 * 1000 / 1.5, rel=0.05)
    assert throughput.eta_seconds(1000) == pytest.approx(1000 * 1.5 / 101, rel=0.05)


def test_an_odd_second_step_is_soon_forgotten():
    clock = Clock()
    throughput = make(clock)

    run_steps(throughput, clock, [1.0, 0.1] + [0.01] * 190)

    assert throughput.tokens_per_second == pytest.approx(191 * 1000 / 2.0, rel=0.02)


def test_mfu_is_the_share_of_the_peak():
    clock = Clock()
    throughput = make(clock, world_size=4, flops_per_token=6e6, peak_flops=1e10)

    run_steps(throughput, clock, [1.0, 1.0], tokens=4000)

    assert throughput.mfu == pytest.approx(1000 * 6e6 / 1e10)


def test_mfu_above_one_is_an_error_in_the_log_once_and_no_number(caplog):
    clock = Clock()
    throughput = make(clock, flops_per_token=1e9, peak_flops=1e9)

    run_steps(throughput, clock, [1.0, 1.0])
    with caplog.at_level(logging.ERROR):
        assert throughput.mfu is None and throughput.mfu is None

    assert caplog.text.count("cannot be") == 1


def test_mfu_is_unknown_without_a_peak():
    assert make(Clock(), flops_per_token=1.0).mfu is None
