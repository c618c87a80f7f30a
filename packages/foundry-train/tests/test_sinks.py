"""Mirrors of the metrics: real W&B and TensorBoard files, and sinks that fail, lag or hang."""

import json
import logging
import struct
import sys
import threading
import time
import types
from collections.abc import Iterator

import pytest

from foundry_config import LoggingConfig
from foundry_config.errors import ConfigError
from foundry_train.sinks import BackgroundSink, SinkRun, close_sinks, numbers, open_sinks

STEP = {"kind": "step", "step": 1, "loss": 2.5, "lr": 0.1, "mfu": None, "time": 1.0}
EVALUATION = {"kind": "evaluation", "step": 1, "suite": "test", "loss": 2.0, "perplexity": 7.4, "time": 1.0}
PAIRS = {"kind": "evaluation", "step": 1, "suite": "minimal_pairs", "item": "overall", "accuracy": 0.5}
SAMPLE = {"kind": "sample", "step": 1, "prompt": "", "text": "a <b> c"}
EVENT = {"kind": "event", "step": 1, "event": "oom", "before": 8}


def sink_run(folder, step: int = 0, run_id: str = "run-1234") -> SinkRun:
    return SinkRun(
        run_id=run_id,
        name="experiment",
        directory=folder,
        config={"a": 1},
        step=step,
        project="project",
        mode="offline",
    )


class Recording:
    """A sink that remembers; `release` lets it go on when it was told to wait."""

    def __init__(self, *, fail_at: int | None = None, release: threading.Event | None = None) -> None:
        self.records, self.closed, self.fail_at, self.release = [], False, fail_at, release

    def __call__(self, run: SinkRun) -> "Recording":
        return self

    def write(self, record) -> None:
        if self.release is not None:
            self.release.wait(10)
        if len(self.records) == self.fail_at:
            raise ConnectionError("the service is gone")
        self.records.append(record)

    def close(self) -> None:
        self.closed = True


def test_records_reach_a_sink_in_order_and_it_is_closed(tmp_path):
    inner = Recording()
    sink = BackgroundSink("own", inner, sink_run(tmp_path))

    for step in range(100):
        sink.write({"kind": "step", "step": step})
    sink.close()

    assert [record["step"] for record in inner.records] == list(range(100)) and inner.closed


@pytest.mark.parametrize("fail_at", [0, 3])
def test_a_sink_that_raises_is_switched_off_with_one_warning(tmp_path, caplog, fail_at):
    sink = BackgroundSink("own", Recording(fail_at=fail_at), sink_run(tmp_path))

    with caplog.at_level(logging.WARNING):
        for step in range(10):
            sink.write({"kind": "step", "step": step})
        sink.close()
        sink.write(STEP)

    assert sink.failure == "ConnectionError: the service is gone"
    assert caplog.text.count("switched off") == 1


def test_a_sink_that_cannot_be_opened_or_exits_the_interpreter_is_switched_off(tmp_path, caplog):
    def leaving(run: SinkRun):
        sys.exit(3)

    sink = BackgroundSink("own", leaving, sink_run(tmp_path))
    sink.close()

    assert "SystemExit" in sink.failure and "switched off" in caplog.text


def test_a_slow_sink_loses_records_instead_of_holding_up_training(tmp_path, caplog):
    release = threading.Event()
    inner = Recording(release=release)
    sink = BackgroundSink("slow", inner, sink_run(tmp_path), capacity=5)

    started = time.monotonic()
    for step in range(1000):
        sink.write({"kind": "step", "step": step})
    elapsed = time.monotonic() - started
    release.set()
    sink.close()

    assert elapsed < 0.5 and sink.dropped >= 990
    assert f"{sink.dropped} records are only in metrics.jsonl" in caplog.text
    assert len(inner.records) + sink.dropped == 1000


def test_a_hanging_sink_is_left_behind_in_bounded_time(tmp_path, caplog):
    release = threading.Event()
    sink = BackgroundSink("hanging", Recording(release=release), sink_run(tmp_path), capacity=1)
    sink.write(STEP)
    sink.write(STEP)

    started = time.monotonic()
    sink.close(timeout_seconds=0.05)

    assert time.monotonic() - started < 1.0 and "left behind" in caplog.text
    release.set()


def test_only_numbers_are_plotted_and_named_by_kind():
    assert numbers(STEP) == {"train/loss": 2.5, "train/lr": 0.1}
    assert numbers(EVALUATION) == {"evaluation/test/loss": 2.0, "evaluation/test/perplexity": 7.4}
    assert numbers(PAIRS) == {"evaluation/minimal_pairs/overall/accuracy": 0.5}
    assert numbers(EVENT) == numbers(SAMPLE) == {}


def test_sinks_of_the_config_are_opened_and_unknown_ones_refused(tmp_path, monkeypatch):
    (tmp_path / "my_sinks.py").write_text(
        "import json\n"
        "class Lines:\n"
        "    def __init__(self, run): self.path = run.directory / 'own.jsonl'\n"
        "    def write(self, record):\n"
        "        with self.path.open('a') as file: file.write(json.dumps(dict(record)) + '\\n')\n"
        "    def close(self): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    sinks = open_sinks(LoggingConfig(sinks=("my_sinks:Lines",)), sink_run(tmp_path))
    sinks[0].write(STEP)
    close_sinks(sinks)

    assert json.loads((tmp_path / "own.jsonl").read_text()) == STEP
    with pytest.raises(ConfigError, match=r"has no 'Linse'.*Did you mean 'Lines'"):
        open_sinks(LoggingConfig(sinks=("my_sinks:Linse",)), sink_run(tmp_path))


def test_missing_wandb_names_the_extra_and_stops_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)

    sinks = open_sinks(LoggingConfig(use_wandb=True), sink_run(tmp_path))
    sinks[0].write(STEP)
    close_sinks(sinks)

    assert "foundry-train[wandb]" in caplog.text


def test_missing_tensorboard_names_the_extra_and_stops_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)

    sinks = open_sinks(LoggingConfig(use_tensorboard=True), sink_run(tmp_path))
    close_sinks(sinks)

    assert "foundry-train[tensorboard]" in caplog.text


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_wandb_that_raises_anywhere_is_switched_off(tmp_path, monkeypatch, caplog, broken):
    def raising(*_, **__):
        raise RuntimeError(f"no {broken}")

    run = types.SimpleNamespace(define_metric=lambda *_, **__: None, log=lambda *_: None, finish=lambda: None)
    fake = types.SimpleNamespace(Settings=lambda **_: None, init=lambda **_: run, Html=str)
    setattr(fake if broken == "init" else run, broken, raising)
    monkeypatch.setitem(sys.modules, "wandb", fake)

    sinks = open_sinks(LoggingConfig(use_wandb=True), sink_run(tmp_path))
    sinks[0].write(STEP)
    close_sinks(sinks)

    assert sinks[0].failure == f"RuntimeError: no {broken}" and "switched off" in caplog.text


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Cut a .wandb file into records: LevelDB's log format, in blocks of 32 KiB, behind a header of 7 bytes."""
    position, parts = 7, []
    while position + 7 <= len(data):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield b"".join(parts)
            parts = []


def read_wandb_history(folder) -> list[dict]:
    """Rows of history in the binary files that W&B wrote."""
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    rows, ids = [], set()
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in wandb_records(file.read_bytes()):
            record = protocol.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items})
    assert ids == {"run-1234"}, "all starts of a run have one id"
    return rows


@pytest.mark.slow
def test_wandb_offline_writes_every_step_under_one_run_id_across_resumes(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
    monkeypatch.setenv("WANDB_SILENT", "true")
    folders = [tmp_path / "one", tmp_path / "other"]  # W&B tells offline starts apart by the second alone
    for folder, first, last in zip(folders, (1, 3), (4, 6)):  # the second start repeats step 3, as after a crash
        folder.mkdir()
        sinks = open_sinks(LoggingConfig(use_wandb=True), sink_run(folder, step=first - 1))
        for step in range(first, last):
            sinks[0].write(STEP | {"step": step, "loss": float(step)})
        sinks[0].write(EVALUATION)
        sinks[0].write(SAMPLE)
        close_sinks(sinks)
        assert sinks[0].failure is None

    wandb.teardown()  # its own process, which writes the files, has then come to its end

    rows = [row for folder in folders for row in read_wandb_history(folder)]

    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 3, 4, 5]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [1.0, 2.0, 3.0, 3.0, 4.0, 5.0]
    assert any("evaluation/test/perplexity" in row for row in rows)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(b"c" * 40 in file.read_bytes() for file in written), "a secret was written"


@pytest.mark.slow
def test_tensorboard_files_hold_the_numbers_and_a_resume_replaces_repeated_steps(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, last, value in ((1, 3, 0.0), (1, 4, 1.0), (3, 5, 2.0)):  # the first was killed before it saved anything
        sinks = open_sinks(LoggingConfig(use_tensorboard=True), sink_run(tmp_path, step=first - 1))
        for step in range(first, last):
            sinks[0].write(STEP | {"step": step, "loss": value})
        sinks[0].write(SAMPLE)
        close_sinks(sinks)
        assert sinks[0].failure is None

    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()

    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
