"""The loop from its first to its last step: counters, records, checkpoints and hooks against closed forms."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from foundry_data.torch_loader import GlobalBatch
from foundry_train.hooks import Hook, Moment
from foundry_train.memory import MemoryUse
from foundry_train.metrics_log import read_metrics


def test_a_run_reaches_the_end_of_its_plan_and_counts_everything(make_run):
    run = make_run()

    end = run.loop.run()

    assert end.stopped_by is None and end.exit_code == 0
    state = run.state
    assert (state.step, state.epoch, state.position) == (12, 4, 0)
    assert (state.sequences, state.tokens, state.words) == (40, 200, 80)
    assert [record.epoch for record in run.shown] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [record.tokens for record in run.shown[:4]] == [20, 40, 50, 70]


@pytest.mark.slow
def test_loss_decreases_over_steps(make_run):
    run = make_run(epochs=20)

    end = run.loop.run()

    assert end.first_loss > 2.0 and end.final_loss < 0.5 * end.first_loss


def test_learning_rate_changes_over_time_as_the_schedule_says(make_run):
    run = make_run()

    run.loop.run()

    assert [record.lr for record in run.shown] == [run.rate(step) for step in range(12)]
    assert run.shown[1].lr == 0.05 and run.shown[-1].lr < run.shown[2].lr


def test_gradient_accumulation_gives_the_same_weights_as_one_large_batch(make_run):
    whole, cut = make_run("a"), make_run("b", micro_batch=3)
    for run in (whole, cut):
        run.model.dropout.p = 0.0
        run.loop.run()

    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_metrics_file_has_one_line_per_step_with_the_exact_numbers(make_run):
    run = make_run()

    run.loop.run()

    lines = [record for record in read_metrics(run.metrics) if record["kind"] == "step"]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["loss"] for line in lines] == [record.loss for record in run.shown]
    expected = {"kind", "step", "epoch", "loss", "lr", "grad_norm", "tokens", "words", "tokens_per_second"}
    expected |= {"tokens_per_second_per_device", "mfu", "memory_bytes", "micro_batch", "time"}
    assert set(lines[0]) == expected


def test_checkpoints_are_saved_at_scheduled_steps(make_run):
    run = make_run(checkpoint_schedule=(0, 3, 7), save_every_steps=5)

    run.loop.run()

    found = {info.step: (info.kind, info.milestone) for info in run.manager.list()}
    assert found == {
        0: ("weights", True),
        3: ("weights", True),
        5: ("full", False),
        7: ("weights", True),
        10: ("full", False),
        12: ("full", True),
    }
    assert [event["step"] for event in run.events("checkpoint")] == sorted(found)


def test_a_step_that_is_both_milestone_and_rolling_is_saved_once_in_full_for_ever(make_run):
    run = make_run(checkpoint_schedule=(4,), save_every_steps=4)

    run.loop.run()

    found = {info.step: (info.kind, info.milestone) for info in run.manager.list()}
    assert found == {4: ("full", True), 8: ("full", False), 12: ("full", True)}


def test_rolling_checkpoints_by_time_follow_the_clock(make_run):
    run = make_run(save_every_minutes=1.0)
    now = [0.0]
    run.loop._saver._clock = lambda: now[0]
    run.loop._saver._last_full = 0.0

    class Tick(Hook):
        def on_step(self, moment: Moment) -> None:
            now[0] += 25.0  # seconds a step

    run.loop._hooks = [Tick()]
    run.loop.run()

    assert [info.step for info in run.manager.list() if info.kind == "full"][-2:] == [9, 12]
    assert [event["step"] for event in run.events("checkpoint")] == [3, 6, 9, 12]


class Noisy(Hook):
    """A hook that does all the things that would disturb a training if nobody put them back."""

    def disturb(self, moment: Moment) -> None:
        torch.rand(7)
        torch.manual_seed(123)
        moment.model.eval()
        moment.model(torch.zeros(1, 2, dtype=torch.long))
        moment.log({"kind": "noise"})

    on_start = on_step = on_checkpoint = on_end = disturb


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_toggling_every_hook_leaves_the_weights_unchanged(make_run, precision):
    quiet = make_run("quiet", precision=precision)
    quiet.loop.run()
    noisy = make_run("noisy", precision=precision, hooks=(Noisy(),))
    noisy.loop.run()

    assert quiet.digest() == noisy.digest() and quiet.losses() == noisy.losses()
    assert [line["kind"] for line in read_metrics(noisy.metrics)].count("noise") == 1 + 12 + 1 + 1
    assert noisy.model.training


def test_hooks_see_the_moments_in_order_and_only_the_steps_they_ask_for(make_run):
    seen = []

    class Watching(Hook):
        def is_due(self, step: int) -> bool:
            return step % 5 == 0

        def on_start(self, moment: Moment) -> None:
            seen.append(("start", moment.step, moment.record))

        def on_step(self, moment: Moment) -> None:
            seen.append(("step", moment.step, moment.record.step))

        def on_checkpoint(self, moment: Moment) -> None:
            seen.append(("checkpoint", moment.step, moment.record.step))

        def on_end(self, moment: Moment) -> None:
            seen.append(("end", moment.step, moment.record.step))

    make_run(hooks=(Watching(),), checkpoint_schedule=(5,)).loop.run()

    assert seen == [
        ("start", 0, None),
        ("step", 5, 5),
        ("checkpoint", 5, 5),
        ("step", 10, 10),
        ("end", 12, 12),
        ("checkpoint", 12, 12),
    ]


def test_a_record_of_a_hook_belongs_to_the_step_it_was_made_at(make_run):
    class Logging(Hook):
        def on_step(self, moment: Moment) -> None:
            moment.log({"kind": "mine", "step": 100, "norm": np.float32(moment.step / 2)})

    run = make_run(hooks=(Logging(),))
    run.loop.run()

    mine = [record for record in read_metrics(run.metrics) if record["kind"] == "mine"]
    assert [(record["step"], record["norm"]) for record in mine[:3]] == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_memory_and_progress_are_part_of_every_record(make_run):
    run = make_run()

    run.loop.run()

    assert all(record.memory_bytes > 2**20 for record in run.shown)
    assert run.shown[-1].eta_seconds == 0.0 and run.shown[3].eta_seconds > 0
    assert all(record.tokens_per_second > 0 and record.total_steps == 12 for record in run.shown)


def test_fragmentation_is_warned_about_once(make_run, monkeypatch, caplog):
    run = make_run()
    uses = []

    def fragmented(device):
        uses.append(device)
        return MemoryUse(used=2**30, peak=2**30, reserved=2**33)

    monkeypatch.setattr("foundry_train.loop.memory_use", fragmented)
    monkeypatch.setattr("foundry_train.loop.MEMORY_SECONDS", 0.0)
    run.loop.run()

    assert caplog.text.count("fragmented") == 1 and len(uses) > 1


@pytest.mark.slow
def test_loss_falls_to_the_known_entropy_of_the_corpus(make_run):
    """Every next token is one of two, with equal chance: nobody can do better than ln 2."""
    run = make_run(epochs=150, learning_rate=0.05, lr_schedule="linear")
    run.model.dropout.p = 0.0
    generator = torch.Generator().manual_seed(0)

    def sample() -> torch.Tensor:
        ids = torch.zeros(64, 5, dtype=torch.long)
        ids[:, 0] = torch.randint(0, 11, (64,), generator=generator)
        for place in range(1, 5):
            coin = torch.randint(1, 3, (64,), generator=generator)
            ids[:, place] = (ids[:, place - 1] + coin) % 11
        return ids

    class Random(type(run.stream)):
        def __next__(self) -> GlobalBatch:
            batch, ids = super().__next__(), sample()
            return dataclasses.replace(batch, input_ids=ids, labels=ids, target_tokens=ids[:, 1:].numel())

    stream = Random()
    run.loop._batches = stream
    run.loop._position = lambda: stream.state
    run.loop.run()

    last = [record.loss for record in run.shown[-50:]]
    assert sum(last) / len(last) == pytest.approx(math.log(2), abs=0.02)
    assert run.shown[0].loss == pytest.approx(math.log(11), abs=0.7)
