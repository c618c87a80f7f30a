"""Stops, missing memory, overflows and numbers that are not finite, at chosen steps of the loop."""

import math
import signal

import pytest
import torch

from foundry_config.errors import MemoryExhaustedError, NonFiniteError
from foundry_train.hooks import Hook, Moment
from foundry_train.loop import StopRequest
from foundry_train.metrics_log import read_metrics


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 5, 11])
def test_a_stopped_run_goes_on_bit_for_bit(make_run, stop_at_call, cut, asynchronous):
    settings = {"save_every_steps": 4, "async_save": asynchronous}
    whole = make_run("whole", **settings)
    whole.loop.run()

    # asked twice for each step: before the batch, and before its only micro-batch
    first = make_run("cut", should_stop=stop_at_call(2 * cut + 1), **settings)
    end = first.loop.run()
    torch.manual_seed(99)
    second = make_run("cut", resume=True, **settings)
    second.loop.run()

    assert (end.stopped_by, end.exit_code, first.state.step) == ("SIGTERM", 143, cut)
    assert first.losses() + second.losses() == whole.losses()
    assert second.digest() == whole.digest() and second.state == whole.state


@pytest.mark.slow
def test_a_stop_in_the_middle_of_an_update_drops_that_update_only(make_run, stop_at_call):
    whole = make_run("whole", micro_batch=1)
    whole.loop.run()

    # each step of four sequences asks five times; the eighth time is inside the second step
    first = make_run("cut", micro_batch=1, should_stop=stop_at_call(8))
    first.loop.run()
    second = make_run("cut", micro_batch=1, resume=True)
    second.loop.run()

    assert first.state.step == 1 and first.state.position == 4
    assert first.losses() + second.losses() == whole.losses() and second.digest() == whole.digest()


def test_the_time_budget_saves_and_stops_like_a_sigterm(make_run):
    now = [0.0]
    stop = StopRequest(lambda: None, stop_after_seconds=3 * 60.0, clock=lambda: now[0])

    class Minute(Hook):
        def on_step(self, moment: Moment) -> None:
            now[0] += 60.0

    run = make_run(should_stop=stop, hooks=(Minute(),))
    end = run.loop.run()

    assert (end.stopped_by, end.exit_code, run.state.step) == ("stop_after", 143, 3)
    assert run.manager.find_latest().step == 3


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140), (signal.SIGTERM, 143)]
)
def test_exit_code_tells_the_signal(make_run, number, code):
    end = make_run(should_stop=StopRequest(lambda: number)).loop.run()

    assert end.exit_code == code and end.stopped_by == number.name


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_stops_and_names_step_sequences_and_last_checkpoint(make_run, sabotage, value):
    run = make_run(loss=sabotage(range(5, 6), value), save_every_steps=3)

    with pytest.raises(NonFiniteError, match=r"step 5, on sequences 4, 5, 6, 7 of epoch 1.*checkpoint.* is step 3"):
        run.loop.run()

    assert run.state.step == 4
    assert [info.step for info in run.manager.list()] == [3]


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "Lower training.learning_rate, or set training.on_nonfinite: skip; that is another experiment"),
        ({"max_grad_norm": None}, "learning_rate, clip with training.max_grad_norm: 1.0, or set"),
        ({"precision": "fp16"}, "Or go on with training.precision: bf16 and --allow-numeric-drift"),
    ],
)
def test_advice_about_a_loss_that_is_not_finite_is_about_this_run(make_run, sabotage, settings, advice):
    with pytest.raises(NonFiniteError) as caught:
        make_run(loss=sabotage(range(1, 99), math.nan), **settings).loop.run()

    assert advice in str(caught.value)
    assert ("bf16" in str(caught.value)) == ("precision" in settings)


def test_skipped_updates_count_as_steps_leave_the_weights_and_are_recorded(make_run, sabotage):
    run = make_run(loss=sabotage(range(5, 7), math.nan), on_nonfinite="skip", max_nonfinite_skips=2)
    digests = []

    class Watching(Hook):
        def on_step(self, moment: Moment) -> None:
            digests.append(run.digest())

    run.loop._hooks = [Watching()]
    run.loop.run()

    assert run.state.step == 12 and run.state.nonfinite_skips == 2 and run.state.sequences == 40
    assert digests[3] == digests[4] == digests[5] != digests[6]
    assert [event["step"] for event in run.events("nonfinite_skip")] == [5, 6]
    assert [record.skipped for record in run.shown].count(True) == 2
    lines = {line["step"]: line["loss"] for line in read_metrics(run.metrics) if line["kind"] == "step"}
    assert lines[5] == "nan" and isinstance(lines[7], float)


def test_more_skips_than_allowed_stop_the_run(make_run, sabotage):
    run = make_run(loss=sabotage(range(3, 99), math.nan), on_nonfinite="skip", max_nonfinite_skips=2)

    with pytest.raises(NonFiniteError, match="max_nonfinite_skips: 2"):
        run.loop.run()

    assert run.state.step == 4


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_at_step_n_is_caught_recorded_and_survived(make_run, sabotage, error):
    run = make_run("a", loss=sabotage(range(5, 6), error))
    plain = make_run("b")
    for each in (run, plain):
        each.model.dropout.p = 0.0
        each.loop.run()

    assert [(e["step"], e["before"], e["after"]) for e in run.events("oom")] == [(5, 4, 2)]
    assert [record.micro_batch for record in run.shown] == [4] * 4 + [2] * 8
    assert run.state.micro_batch == 2 and run.state.sequences == plain.state.sequences
    for one, other in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_out_of_memory_to_the_end_stops_with_the_weights_of_the_last_step(make_run, sabotage):
    run = make_run(loss=sabotage(range(4, 99), torch.OutOfMemoryError("CUDA out of memory")))

    with pytest.raises(MemoryExhaustedError):
        run.loop.run()

    assert run.state.step == 3


def test_fp16_overflows_are_replayed_counted_and_recorded(make_run):
    run = make_run(precision="fp16")
    run.loop._updater._precision.scaler._init_scale = 2.0**30

    run.loop.run()

    assert run.state.step == 12 and run.state.overflow_skips > 0 and run.state.nonfinite_skips == 0
    assert run.events("overflow_skip")[0]["step"] == 1
    assert all(math.isfinite(record.loss) for record in run.shown)


@pytest.mark.slow
def test_amp_scaler_is_part_of_a_resume(make_run, stop_at_call):
    whole = make_run("whole", precision="fp16")
    whole.loop.run()

    first = make_run("cut", precision="fp16", should_stop=stop_at_call(11))
    first.loop.run()
    second = make_run("cut", precision="fp16", resume=True)
    second.loop.run()

    assert second.digest() == whole.digest()
    scalers = [run.loop._updater._precision.scaler.state_dict() for run in (whole, second)]
    assert scalers[0] == scalers[1]
