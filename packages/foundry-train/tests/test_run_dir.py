"""A run directory knows whose it is, refuses another experiment by name, and loses no metric."""

import errno
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from foundry_config import ExperimentConfig, parse_config, replace_fields
from foundry_config.errors import CheckpointError, ConfigError, ResumeMismatchError, RunLockedError, StorageError
from foundry_data import fs
from foundry_train.checkpoint_list import CheckpointInfo
from foundry_train.lineage import append_event, fingerprint_changes, read_events, save_event
from foundry_train.manifest import Manifest, ParentLink, WeightsSummary, seal
from foundry_train.metrics_log import MetricsLog, read_metrics
from foundry_train.run_dir import RunDirectory, parse_resume

CONFIG = parse_config(
    """
experiment_name: study
data: {source_corpus: "builtin:python-docs", batch_size: 2, max_sequence_length: 16}
tokenizer: {vocab_size: 300}
model: {layers: 1, embedding_size: 8, hidden_size: 8, intermediate_hidden_size: 16, attention_heads: 2}
training: {output_dir: run, learning_rate: 0.001, train_steps: 4}
"""
)


class Broken(fs.Backend):
    """A disk of which one operation fails until `works` is set."""

    def __init__(self, operation: str, code: int = errno.ENOSPC) -> None:
        self.works = False
        real = getattr(super(), operation)

        def perhaps(*arguments: Any) -> Any:
            if not self.works:
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        setattr(self, operation, perhaps)


def changed(**fields: Any) -> ExperimentConfig:
    return replace_fields(CONFIG, {path.replace("__", "."): value for path, value in fields.items()})


def made(path: Path) -> Path:
    """A run that was started once."""
    with RunDirectory.open(path, CONFIG) as run:
        run.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")
        run.start_attempt(from_step=None)
    return path


def saved(step: int = 1) -> CheckpointInfo:
    manifest, _ = seal(
        Manifest(
            run_id="r",
            step=step,
            kind="full",
            parent=ParentLink(0, "sha256:p"),
            files={},
            weights=WeightsSummary("sha256:w", 1, 1),
        )
    )
    return CheckpointInfo(Path(f"step-{step:08d}"), step, manifest, None)


def test_a_run_keeps_its_identity_and_counts_its_starts(tmp_path: Path) -> None:
    first = json.loads((made(tmp_path / "run") / "run.json").read_text())

    with RunDirectory.open(tmp_path / "run", CONFIG) as run:
        run.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")

        assert (run.run_id, run.attempt) == (first["run_id"], 2)
    assert json.loads((tmp_path / "run/run.json").read_text()) == first


def test_a_change_of_the_identity_is_refused_field_by_field(tmp_path: Path) -> None:
    made(tmp_path / "run")

    with pytest.raises(ResumeMismatchError) as raised:
        RunDirectory.open(tmp_path / "run", changed(training__learning_rate=0.01, model__layers=2))

    assert raised.value.exit_code == 5
    assert "model.layers: 1 -> 2" in str(raised.value)
    assert "training.learning_rate: 0.001 -> 0.01" in str(raised.value)


def test_a_numeric_change_is_refused_unless_allowed_and_then_recorded(tmp_path: Path) -> None:
    made(tmp_path / "run")
    other = changed(training__precision="bf16")
    with pytest.raises(ResumeMismatchError, match="--allow-numeric-drift"):
        RunDirectory.open(tmp_path / "run", other)

    with RunDirectory.open(tmp_path / "run", other, allow_numeric_drift=True) as run:
        run.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")
        run.start_attempt(from_step=None, drift=["threads: 1 -> 2"])

    event = read_events(tmp_path / "run")[-1]
    assert event["changes"] == ["training.precision: 'fp32' -> 'bf16'"]
    assert event["drift"] == ["threads: 1 -> 2"]


def test_a_free_change_is_allowed_and_config_json_follows_once_the_run_goes_on(tmp_path: Path) -> None:
    made(tmp_path / "run")

    def kept() -> int:
        return json.loads((tmp_path / "run/config.json").read_text())["training"]["keep_checkpoints"]

    before = kept()
    with RunDirectory.open(tmp_path / "run", changed(training__keep_checkpoints=before + 3)) as run:
        run.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")
        assert kept() == before  # the start may still be refused
        run.start_attempt(from_step=None)

    assert kept() == before + 3


@pytest.mark.parametrize(("field", "what"), [("data_digest", "training data"), ("tokenizer_digest", "tokenizer")])
def test_other_data_or_another_tokenizer_is_refused(tmp_path: Path, field: str, what: str) -> None:
    made(tmp_path / "run")
    digests = {"data_digest": "sha256:d", "tokenizer_digest": "sha256:t"} | {field: "sha256:other"}

    with (
        RunDirectory.open(tmp_path / "run", CONFIG) as run,
        pytest.raises(ResumeMismatchError, match=rf"the {what} of .* changed: sha256:. -> sha256:other"),
    ):
        run.bind(**digests)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "foundry.run/1"}'])
def test_a_damaged_run_json_is_refused(tmp_path: Path, content: str) -> None:
    (made(tmp_path / "run") / "run.json").write_text(content)

    with pytest.raises(ResumeMismatchError, match=r"run\.json is damaged"):
        RunDirectory.open(tmp_path / "run", CONFIG)


def test_a_newer_run_format_a_missing_and_a_foreign_config_are_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"format": "foundry.run/2"}))
    with pytest.raises(ResumeMismatchError, match=r"foundry\.run/2"):
        RunDirectory.open(run, CONFIG)
    (run / "run.json").write_text(json.dumps(record | {"config": "sha256:other"}))
    with pytest.raises(ResumeMismatchError, match=r"not the one that run\.json"):
        RunDirectory.open(run, CONFIG)
    (run / "config.json").write_text('{"data": 1}')
    with pytest.raises(ResumeMismatchError, match="cannot be read back"):
        RunDirectory.open(run, CONFIG)
    (run / "config.json").unlink()
    with pytest.raises(ResumeMismatchError, match="another experiment"):
        RunDirectory.open(run, CONFIG)
    (run / "run.json").write_text(json.dumps(record))
    RunDirectory.open(run, CONFIG).close()


def test_checkpoints_without_a_run_json_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints/step-00000001").mkdir(parents=True)

    with pytest.raises(ResumeMismatchError, match=r"no run\.json"):
        RunDirectory.open(tmp_path / "run", CONFIG)


def test_resume_never_and_must_hold_what_they_say(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        RunDirectory.open(run, CONFIG, resume="must")
    (run / "checkpoints/step-00000004").mkdir(parents=True)

    with pytest.raises(ResumeMismatchError, match=r"1 checkpoints \(up to step 4\) and --resume never"):
        RunDirectory.open(run, CONFIG, resume="never")
    RunDirectory.open(run, CONFIG, resume="must").close()


@pytest.mark.parametrize(("wish", "step"), [("auto", None), ("never", None), ("must", None), ("step=30", 30)])
def test_resume_wishes_are_read(wish: str, step: int | None) -> None:
    assert parse_resume(wish) == step


@pytest.mark.parametrize("wish", ["", "yes", "step=", "step=-1", "step=1.5", "step", "step=" + "9" * 5000])
def test_other_resume_wishes_are_refused(tmp_path: Path, wish: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, never, must or step=N"):
        RunDirectory.open(tmp_path / "run", CONFIG, resume=wish)


def test_a_second_opening_in_the_same_process_is_refused_and_a_failed_one_frees_the_lock(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with RunDirectory.open(run, CONFIG), pytest.raises(RunLockedError, match="already open in this process"):
        RunDirectory.open(run, CONFIG)
    with pytest.raises(ResumeMismatchError):
        RunDirectory.open(run, changed(random_seed=7))
    RunDirectory.open(run, CONFIG).close()


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="ENOTDIR"):
        RunDirectory.open(tmp_path / "file/run", CONFIG)
    with pytest.raises(StorageError, match="ENOSPC"), fs.using(Broken("mkdir")):
        RunDirectory.open(tmp_path / "run", CONFIG)


def test_starts_that_died_unexplained_twice_are_not_repeated_blindly(tmp_path: Path) -> None:
    path = made(tmp_path / "run")

    def start_and_die() -> None:
        run = RunDirectory.open(path, CONFIG)
        run.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")
        try:
            run.start_attempt(from_step=3)
        finally:
            run.close()  # as the kernel does it: nothing says why

    start_and_die()
    start_and_die()
    with pytest.raises(CheckpointError, match="2 starts from step 3 ended before the next step"):
        start_and_die()


def test_starts_that_made_progress_or_ended_for_a_reason_do_not_count(tmp_path: Path) -> None:
    path = made(tmp_path / "run")
    for number in range(5):
        with RunDirectory.open(path, CONFIG) as run:
            run.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")
            run.start_attempt(from_step=3)
            if number % 2:
                run.after_save(saved(4))

    assert len(read_events(path)) == 1 + 5 + 2


def test_an_argument_that_is_no_utf8_does_not_spoil_the_environment(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG) as run:
        run.write_environment({"command": ["foundry", "train", os.fsdecode(b"\xe9/") + "é.yaml"]})

    written = (tmp_path / "run/environment.json").read_text(encoding="utf-8")
    assert json.loads(written) == {"command": ["foundry", "train", "?/é.yaml"]}


def test_status_environment_and_saves_are_written_for_people_and_a_bad_disk_only_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG) as run:
        run.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")
        run.write_environment({"python": "3", "path": Path("x")})
        run.update_status(phase="training", step=4)
        run.after_save(saved(4))
        with fs.using(Broken("open_append")):
            run.after_save(saved(5))
        with fs.using(Broken("open_new")):
            run.update_status(step=9)

        assert run.status["step"] == 9
    assert "step-00000005 is saved, but not in the lineage" in caplog.text
    assert "status.json could not be written" in caplog.text
    assert json.loads((tmp_path / "run/status.json").read_text())["saved_step"] == 5
    assert json.loads((tmp_path / "run/environment.json").read_text())["path"] == "x"


def test_the_id_is_not_known_before_the_run_is_bound(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG) as run, pytest.raises(RuntimeError, match="before bind"):
        _ = run.run_id


def test_a_disk_that_refuses_at_the_start_is_a_storage_error(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG) as run:
        with pytest.raises(StorageError), fs.using(Broken("rename")):
            run.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")
        run.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")
        with pytest.raises(StorageError), fs.using(Broken("open_append")):
            run.start_attempt(from_step=None)
        run.append_metrics({"kind": "step", "step": 5})
        with pytest.raises(StorageError), fs.using(Broken("truncate")):
            run.truncate_metrics(1)


def test_metrics_that_are_not_finite_become_words_and_keep_their_attempt(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG) as run:
        run.append_metrics({"kind": "step", "step": 1, "loss": float("nan"), "all": [float("inf"), (-float("inf"),)]})

    [record] = read_metrics(tmp_path / "run/metrics.jsonl")
    assert record == {"attempt": 1, "kind": "step", "step": 1, "loss": "nan", "all": ["inf", ["-inf"]]}


def test_lines_wait_while_the_disk_is_full_and_none_is_torn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Tearing(fs.Backend):
        full = False

        def write(self, fd: int, data: memoryview) -> int:
            if not self.full:
                return super().write(fd, data)
            super().write(fd, data[:5])
            raise OSError(errno.ENOSPC, "full")

    log = MetricsLog(tmp_path / "metrics.jsonl")
    with fs.using(Tearing()) as disk:
        for step in range(6):
            disk.full = step in (2, 3)
            log.append({"step": step})

    assert [record["step"] for record in read_metrics(log.path)] == list(range(6))
    assert log.path.read_bytes().count(b"\n") == 6
    assert caplog.text.count("lines are kept in memory") == 1


def test_metrics_are_cut_behind_a_step_and_at_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.truncate_after(3)
    for step in (1, 2, 2, 3, 4):
        log.append({"step": step})
    path.write_bytes(path.read_bytes() + b'{"step": 1, "lo')

    again = MetricsLog(path)
    again.truncate_after(2)
    again.append({"step": 3, "again": True})

    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 2}, {"step": 3, "again": True}]


def test_a_torn_line_is_closed_before_the_next_even_without_cutting(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')

    MetricsLog(path).append({"step": 2})

    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    assert read_metrics(tmp_path / "missing") == []


def test_the_lineage_survives_a_torn_line(tmp_path: Path) -> None:
    append_event(tmp_path, {"event": "start"})
    with (tmp_path / "lineage.jsonl").open("ab") as file:
        file.write(b'{"event": "sa')

    append_event(tmp_path, save_event(saved(3)))

    events = read_events(tmp_path)
    assert [event["event"] for event in events] == ["start", "save"]
    assert (events[1]["step"], events[1]["parent"], events[1]["milestone"]) == (3, "sha256:p", False)
    with pytest.raises(ValueError, match="no readable manifest"):
        save_event(saved()._replace(manifest=None))


def test_fingerprints_are_compared_component_by_component() -> None:
    old = {"torch": "2.14", "cuda": {"device": "A", "cudnn": 9}, "threads": 2}

    assert fingerprint_changes(old, old) == []
    assert fingerprint_changes(old, {"torch": "2.15", "cuda": {"device": "B", "cudnn": 9}}) == [
        "cuda.device: A -> B",
        "threads: 2 -> None",
        "torch: 2.14 -> 2.15",
    ]


@pytest.mark.parametrize("lost", [False, True])
def test_a_state_is_put_back_only_where_there_was_one(tmp_path, lost):
    run = made(tmp_path / "run")
    with RunDirectory.open(run, CONFIG) as directory:
        directory.update_status(phase="done")
    before = json.loads((run / "status.json").read_bytes())
    if lost:
        (run / "status.json").unlink()

    with RunDirectory.open(run, CONFIG) as directory:
        directory.update_status(phase="preparing")
        restored = directory.restore_status(refused=True)

    after = json.loads((run / "status.json").read_bytes())
    assert restored is not lost
    assert after["phase"] == "preparing" if lost else after == before


@pytest.mark.parametrize("late", [False, True])
def test_the_environment_is_that_of_the_process_that_trained(tmp_path, late):
    run = tmp_path / "run"
    environment = run / "environment.json"
    with RunDirectory.open(run, CONFIG) as directory:
        directory.write_environment({"command": "first, and refused"})
    assert "refused" in environment.read_text()  # nothing has trained yet: the last try is what there is to tell
    made(run)

    with RunDirectory.open(run, CONFIG) as directory:
        directory.write_environment({"command": "refused"})
    assert "first" in environment.read_text()

    with RunDirectory.open(run, CONFIG) as directory:
        directory.bind(data_digest="sha256:d", tokenizer_digest="sha256:t")
        if not late:
            directory.write_environment({"command": "went on"})
        directory.start_attempt(from_step=4)
        if late:  # the thread that takes the snapshot was slow
            directory.write_environment({"command": "went on"})
    assert json.loads(environment.read_bytes()) == {"command": "went on"}


def test_threads_that_write_at_once_neither_double_nor_lose_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(fs, "sync_file", lambda path: None)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        saving = [threading.Thread(target=lambda: [log.sync() for _ in range(400)]) for _ in range(2)]
        for thread in saving:
            thread.start()
        for step in range(800):
            log.append({"kind": "step", "step": step})
        for thread in saving:
            thread.join()
    finally:
        sys.setswitchinterval(before)

    assert [record["step"] for record in read_metrics(log.path)] == list(range(800))
