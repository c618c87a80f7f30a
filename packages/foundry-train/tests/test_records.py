"""Records go to the file, the mirrors and the reporter; written once a second and when asked."""

import json
import logging

import numpy as np
import pytest
import torch
from torch import nn

from foundry_train.hooks import StepRecord, undisturbed
from foundry_train.metrics_log import MetricsLog, read_metrics
from foundry_train.progress import PlainReporter, describe_step, format_seconds
from foundry_train.records import RecordWriter, checked_record


def step_record(step: int = 10, **changes) -> StepRecord:
    values = {
        "step": step,
        "total_steps": 100,
        "epoch": 0,
        "loss": 5.25,
        "lr": 1e-3,
        "grad_norm": 1.5,
        "tokens": 81920,
        "words": 60000,
        "tokens_per_second": 4000.0,
        "tokens_per_second_per_device": 2000.0,
        "mfu": 0.412,
        "memory_bytes": 2**30,
        "eta_seconds": 184.0,
        "micro_batch": 8,
    }
    return StepRecord(**(values | changes))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Mirror:
    def __init__(self) -> None:
        self.records = []

    def write(self, record) -> None:
        self.records.append(record)


def test_lines_wait_for_a_second_or_a_flush_and_mirrors_do_not(tmp_path):
    clock, mirror, path = Clock(), Mirror(), tmp_path / "metrics.jsonl"
    records = RecordWriter(MetricsLog(path).append, reporter=PlainReporter(), sinks=[mirror], clock=clock)

    records.step(step_record(1))
    clock.now = 0.9
    records.step(step_record(2))
    assert read_metrics(path) == [] and len(mirror.records) == 2
    clock.now = 1.0
    records.step(step_record(3))
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    records.event("oom", 4, before=8, after=4)
    records.flush()

    assert read_metrics(path)[-1]["event"] == "oom" and read_metrics(path)[-1]["after"] == 4


def test_what_a_mirror_does_to_a_record_stays_with_it(tmp_path):
    class Spoiling(Mirror):
        def write(self, record) -> None:
            record.pop("step")

    path, mirror = tmp_path / "metrics.jsonl", Mirror()
    records = RecordWriter(MetricsLog(path).append, reporter=PlainReporter(), sinks=[Spoiling(), mirror])

    records.event("stop", 3)
    records.flush()

    assert read_metrics(path)[0]["step"] == mirror.records[0]["step"] == 3


def test_records_hold_the_numbers_of_other_libraries():
    record = {"kind": "mine", "a": np.float32(0.5), "b": torch.tensor(3), "c": [np.int64(2)], "d": {1: np.array(1.5)}}

    assert json.dumps(checked_record(record)) == '{"kind": "mine", "a": 0.5, "b": 3, "c": [2], "d": {"1": 1.5}}'


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"kind": "mine", "v": {1}}, "cannot hold 'v', a value of type set"),
        ({"kind": "mine", "v": [0, torch.zeros(2)]}, r"cannot hold 'v\[1\]', a value of type Tensor"),
        ({"kind": "step", "loss": 1.0}, "kind 'step' are the loop's own; give yours a kind of its own"),
        ({"kind": "event"}, "kind 'event' are the loop's own"),
        ({"v": 1}, "needs a `kind` that is text; this one has 'v'"),
    ],
)
def test_what_no_record_can_hold_is_refused_by_name(record, told):
    with pytest.raises(TypeError, match=told):
        checked_record(record)


def test_numbers_that_are_not_finite_are_texts_and_never_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = RecordWriter(MetricsLog(path).append, reporter=PlainReporter())

    records.step(step_record(loss=float("nan"), grad_norm=float("inf"), skipped=True))
    records.flush()

    line = path.read_text()
    assert '"loss":"nan"' in line and '"grad_norm":"inf"' in line and '"loss":null' not in line


def test_plain_reporter_prints_now_and_then_through_logging(caplog):
    clock = Clock()
    reporter = PlainReporter(every_steps=10, clock=clock)

    with caplog.at_level(logging.INFO):
        reporter.stage("data", "corpus.txt")
        for step in range(1, 101):
            reporter.step(step_record(step))
        for done in range(30):
            clock.now += 1.0
            reporter.progress("tokenize", done, 30)
        reporter.message("hello")
        reporter.close()

    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "data: corpus.txt" and lines[-1] == "hello"
    assert sum(line.startswith("step ") for line in lines) == 11
    assert [line for line in lines if line.startswith("tokenize")] == [
        "tokenize: 9 of 30",
        "tokenize: 19 of 30",
        "tokenize: 29 of 30",
    ]


def test_a_step_is_described_with_everything_a_person_checks():
    line = describe_step(step_record(skipped=True))

    assert line == (
        "step 10/100 loss 5.2500 lr 1.00e-03 grad 1.50 4,000 tok/s mfu 41.2% 1.00 GiB eta 3m04s (skipped: not finite)"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m00s"), (3661, "1h01m"), (90_000, "1d01h")]
)
def test_durations_are_written_as_people_read_them(seconds, text):
    assert format_seconds(seconds) == text


def test_undisturbed_puts_generators_and_modes_back_even_after_an_error():
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    model[1].eval()  # a part that was frozen on purpose stays so
    before = torch.get_rng_state()

    with pytest.raises(KeyError), undisturbed(list(model.modules()), torch.device("cpu")):
        model.train()
        torch.manual_seed(0)
        raise KeyError

    assert torch.equal(torch.get_rng_state(), before)
    assert (model[0].training, model[1].training) == (True, False)
