"""A run goes on where it stopped, bit for bit, or says by name why it does not."""

import itertools
import json
import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from foundry_config.errors import CheckpointError, ConfigError, DataError, ResumeMismatchError, RunLockedError
from foundry_train import Hook, Moment, RunDirectory
from foundry_train.signals import Stopped

pytestmark = pytest.mark.slow


class RaiseAt(Hook):
    """Fails after a step, as a bug in a user's hook would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, moment: Moment) -> None:
        if moment.step == self.step:
            raise ZeroDivisionError("a bug in a hook")


def test_running_a_complete_run_again_says_so_and_changes_nothing(project, tmp_path):
    config = project.config(tmp_path / "run")
    first = project.train(config)
    before = {path: path.stat().st_mtime_ns for path in (first.run_dir / "checkpoints").rglob("*")}

    second = project.train(config)

    assert second.already_done and second.steps == 12 and second.final_loss == first.final_loss
    status = json.loads((second.run_dir / "status.json").read_bytes())
    assert (status["phase"], status["step"], status["resumable"]) == ("done", 12, False)
    assert second.sample == first.sample and second.test_loss_before == first.test_loss_before
    assert {path: path.stat().st_mtime_ns for path in (first.run_dir / "checkpoints").rglob("*")} == before


@pytest.mark.parametrize("name", ["model.safetensors", "trainer/optimizer.safetensors"])
def test_a_complete_run_whose_last_checkpoint_was_damaged_reaches_the_same_end_again(
    project, read, tmp_path, caplog, name
):
    config = project.config(tmp_path / "run", save_every_steps=4)
    first = project.train(config)
    before = read.losses(first), read.weights(first)
    file = first.run_dir / "checkpoints/step-00000012" / name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)

    second = project.train(config)

    assert (second.already_done, second.resumed_from, second.steps) == (False, 8, 12)
    assert (read.losses(second), read.weights(second)) == before
    assert (first.run_dir / "checkpoints/.quarantine/step-00000012" / name).exists()
    assert f"the run was complete, but step-00000012 is not: {name} is damaged" in caplog.text


@pytest.mark.parametrize(("step", "number", "code"), [(1, signal.SIGTERM, 143), (7, signal.SIGINT, 130)])
def test_a_signal_saves_and_stops_and_the_next_start_goes_on_bit_for_bit(
    project, read, tmp_path, step, number, code, stop_at
):
    whole = project.train(project.config(tmp_path / "whole"))
    config = project.config(tmp_path / "cut")

    first = project.train(config, hooks=[stop_at(step, number)])
    status = json.loads((first.run_dir / "status.json").read_bytes())
    second = project.train(config)

    assert (first.exit_code, first.steps, first.stopped_by) == (code, step, signal.Signals(number).name)
    assert (status["phase"], status["resumable"]) == ("stopped", True)
    assert second.resumed_from == step and not second.already_done and second.exit_code == 0
    assert read.losses(second) == read.losses(whole) and read.weights(second) == read.weights(whole)
    assert [record["attempt"] for record in read.records(second.run_dir, "step")] == [1] * step + [2] * (12 - step)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_weights_in_bf16_are_saved_in_fp32_and_a_stopped_run_goes_on_bit_for_bit(project, read, tmp_path, stop_at):
    settings = {"precision": "bf16", "bf16_params": True, "gradient_accumulation_steps": 2}
    whole = project.train(project.config(tmp_path / "whole", **settings))
    cast = project.train(project.config(tmp_path / "cast", **settings | {"bf16_params": False}))
    config = project.config(tmp_path / "cut", **settings)

    project.train(config, hooks=[stop_at(5)])
    second = project.train(config)

    assert second.resumed_from == 5
    assert read.losses(second) == read.losses(whole) and read.weights(second) == read.weights(whole)
    assert read.weights(whole) != read.weights(cast)
    assert whole.final_loss == pytest.approx(cast.final_loss, rel=0.02)
    saved = load_file(whole.checkpoint / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in saved.values())


def test_a_signal_in_an_earlier_stage_ends_at_once_and_leaves_nothing_half_done(project, tmp_path):
    config = project.config(tmp_path / "run")

    class Impatient:
        def stage(self, name, detail=""):
            if name == "model":
                os.kill(os.getpid(), signal.SIGTERM)

        def progress(self, stage, done, total): ...
        def step(self, record): ...
        def message(self, text): ...
        def close(self): ...

    with pytest.raises(Stopped) as caught:
        project.train(config, reporter=Impatient())
    status = json.loads((tmp_path / "run/status.json").read_bytes())
    assert (status["phase"], status["exit_reason"], status["step"]) == ("stopped", "SIGTERM", 0)

    assert caught.value.exit_code == 143
    assert project.train(config).steps == 12


def test_a_crash_loses_nothing_but_the_steps_since_the_last_full_checkpoint(project, read, tmp_path):
    whole = project.train(project.config(tmp_path / "whole"))
    config = project.config(tmp_path / "cut", save_every_steps=4)

    with pytest.raises(RuntimeError, match="training failed after step 6: ZeroDivisionError: a bug in a hook"):
        project.train(config, hooks=[RaiseAt(6)])
    second = project.train(config)

    assert second.resumed_from == 4
    assert read.losses(second) == read.losses(whole) and read.weights(second) == read.weights(whole)
    assert [record["step"] for record in read.records(second.run_dir, "step")] == list(range(1, 13))


def test_a_shard_truncated_during_training_ends_the_run_by_its_name_and_the_run_goes_on_once_it_is_restored(
    project, read, tmp_path
):
    changes = {"data": {"prefetch_batches": 0, "training_corpus": str(tmp_path / "prepared")}}
    whole = project.train(project.config(tmp_path / "whole", changes=changes))
    config = project.config(tmp_path / "cut", changes=changes, save_every_steps=2)
    (shard,) = (tmp_path / "prepared").glob("train-*/tokens-00000.bin")
    content = shard.read_bytes()

    class Truncate(Hook):
        def on_step(self, moment: Moment) -> None:
            if moment.step == 5:
                os.truncate(shard, 0)

    with pytest.raises(DataError, match=rf"{shard} was changed while it was in use .* 0 now") as ended:
        project.train(config, hooks=[Truncate()])
    last_line = (tmp_path / "cut/logs/trainer-test.log").read_text().splitlines()[-1]
    with pytest.raises(DataError, match=rf"{shard} has 0 bytes, but its manifest says"):
        project.train(config)
    shard.write_bytes(content)
    second = project.train(config)

    assert ended.value.exit_code == 3
    assert str(shard) in last_line
    assert second.resumed_from == 4
    assert read.losses(second) == read.losses(whole) and read.weights(second) == read.weights(whole)


def test_a_crash_before_the_first_full_checkpoint_begins_anew(project, read, tmp_path):
    whole = project.train(project.config(tmp_path / "whole"))
    config = project.config(tmp_path / "cut", checkpoint_schedule=(0, 2))

    with pytest.raises(RuntimeError):
        project.train(config, hooks=[RaiseAt(3)])
    second = project.train(config)

    assert second.resumed_from is None
    assert read.losses(second) == read.losses(whole) and read.weights(second) == read.weights(whole)


def test_the_time_budget_stops_the_run_resumably(project, tmp_path):
    config = project.config(tmp_path / "run", stop_after="0.001s")

    first = project.train(config)
    second = project.train(project.config(tmp_path / "run"))

    assert (first.stopped_by, first.exit_code) == ("stop_after", 143)
    assert second.steps == 12


def test_resume_never_refuses_a_run_with_checkpoints_and_deletes_nothing(project, tmp_path):
    config = project.config(tmp_path / "run")
    first = project.train(config, resume="never")

    with pytest.raises(ResumeMismatchError, match="never"):
        project.train(config, resume="never")

    assert first.checkpoint.is_dir()


def test_resume_must_refuses_to_start_from_scratch(project, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        project.train(project.config(tmp_path / "run"), resume="must")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        project.train(project.config(tmp_path / "run", resume_from_checkpoint=True))


def test_resume_from_a_chosen_step_repeats_the_rest_with_the_same_bits(project, read, tmp_path):
    config = project.config(tmp_path / "run", save_every_steps=4, keep_checkpoints=5)
    first = project.train(config)
    before, digest = read.losses(first), read.weights(first)

    second = project.train(config, resume="step=4")

    assert second.resumed_from == 4 and read.losses(second) == before and read.weights(second) == digest
    with pytest.raises(CheckpointError, match="there are: 4, 8, 12"):
        project.train(config, resume="step=5")


def test_a_fork_goes_on_from_another_run_in_a_directory_of_its_own(project, read, tmp_path):
    parent = project.train(project.config(tmp_path / "parent", save_every_steps=4, keep_checkpoints=5))
    config = project.config(tmp_path / "child", learning_rate=0.001)
    source = parent.run_dir / "checkpoints" / "step-00000008"
    files = {path: path.stat().st_mtime_ns for path in parent.run_dir.rglob("*")}

    child = project.train(config, fork=source)

    assert child.resumed_from == 8 and child.steps == 12
    assert [record["step"] for record in read.records(child.run_dir, "step")] == [9, 10, 11, 12]
    assert json.loads((child.run_dir / "run.json").read_bytes())["parent"]["step"] == 8
    assert {path: path.stat().st_mtime_ns for path in parent.run_dir.rglob("*")} == files
    with pytest.raises(CheckpointError, match="no full checkpoint to start from"):
        project.train(project.config(tmp_path / "other"), fork=tmp_path / "nowhere")


def test_a_fork_of_the_same_experiment_repeats_its_bits(project, read, tmp_path):
    parent = project.train(project.config(tmp_path / "parent", save_every_steps=4, keep_checkpoints=5))

    child = project.train(project.config(tmp_path / "child"), fork=parent.run_dir / "checkpoints" / "step-00000004")

    assert read.weights(child) == read.weights(parent)


def test_a_fork_onto_another_tokenizer_is_refused_and_can_keep_the_old_one(project, read, tmp_path):
    parent = project.train(project.config(tmp_path / "parent", save_every_steps=4, keep_checkpoints=5))
    source = parent.run_dir / "checkpoints" / "step-00000008"
    other = {"random_seed": 8}  # other documents are held out, so another tokenizer is trained

    with pytest.raises(ResumeMismatchError, match=r"another tokenizer .* --set tokenizer.source=.*step-00000008"):
        project.train(project.config(tmp_path / "child", changes=other), fork=source)

    kept = other | {"tokenizer": {"source": str(source)}}
    child = project.train(project.config(tmp_path / "kept", changes=kept), fork=source)
    assert child.resumed_from == 8 and child.steps == 12


def test_a_fork_with_another_optimizer_says_what_it_has_to_keep(project, tmp_path):
    parent = project.train(project.config(tmp_path / "parent"))

    with pytest.raises(ResumeMismatchError, match=r"--fork .*step-00000012: .*FusedAdamW, now SGD; a fork keeps"):
        project.train(project.config(tmp_path / "child", optimizer="sgd", train_steps=20), fork=parent.run_dir)


@pytest.mark.parametrize("steps", [4, 8])
def test_a_fork_that_would_end_before_it_begins_is_refused(project, tmp_path, steps):
    parent = project.train(project.config(tmp_path / "parent", save_every_steps=4, keep_checkpoints=5))
    config = project.config(tmp_path / "child", train_steps=steps)

    with pytest.raises(ConfigError, match=f"it is at step 8, and this run ends after {steps} steps"):
        project.train(config, fork=parent.run_dir / "checkpoints" / "step-00000008")


def status(run):
    return json.loads((run / "status.json").read_bytes())


def test_a_refused_request_leaves_the_state_of_a_run_as_it_was(project, tmp_path, stop_at, monkeypatch):
    done = project.train(project.config(tmp_path / "done", save_every_steps=4))
    stopped = project.train(project.config(tmp_path / "stopped"), hooks=[stop_at(3)])
    states = {run: status(run) for run in (done.run_dir, stopped.run_dir)}
    made = {run: (run / "environment.json").read_bytes() for run in states}
    monkeypatch.setattr("sys.argv", ["foundry", "refused"])

    with pytest.raises(CheckpointError):
        project.train(project.config(done.run_dir), resume="step=5")
    with pytest.raises(DataError):
        project.train(project.config(done.run_dir, changes={"data": {"source_corpus": "gone.txt"}}))
    with pytest.raises(ResumeMismatchError):
        project.train(project.config(done.run_dir), fork=stopped.run_dir)
    with pytest.raises(ConfigError):
        project.train(project.config(stopped.run_dir, changes={"logging": {"sinks": ["gone:sink"]}}))

    assert {run: status(run) for run in states} == states
    assert project.train(project.config(done.run_dir)).already_done
    assert {run: (run / "environment.json").read_bytes() for run in states} == made


def test_of_a_run_that_never_trained_the_last_reason_is_told(project, tmp_path):
    for sink in ("first", "second"):
        with pytest.raises(ConfigError):
            project.train(project.config(tmp_path / "run", changes={"logging": {"sinks": [f"{sink}:sink"]}}))

    assert "second:sink" in status(tmp_path / "run")["exit_reason"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"random_seed": 8}, "random_seed: 7 -> 8"),
        ({"data": {"batch_size": 4}}, "data.batch_size: 8 -> 4"),
        ({"model": {"dropout": 0.2}}, "model.dropout: 0.1 -> 0.2"),
    ],
)
def test_another_experiment_in_the_same_directory_is_refused_field_by_field(project, tmp_path, changes, path, stop_at):
    project.train(project.config(tmp_path / "run"), hooks=[stop_at(3)])

    with pytest.raises(ResumeMismatchError, match=path) as caught:
        project.train(project.config(tmp_path / "run", changes=changes))

    assert caught.value.exit_code == 5


def test_another_corpus_in_the_same_run_is_refused(project, tmp_path, stop_at):
    project.train(project.config(tmp_path / "run"), hooks=[stop_at(3)])
    text = (project.folder / "corpus.txt").read_text()
    (tmp_path / "other.txt").write_text(text.replace("the red bird", "the blue bird"))
    changes = {"data": {"source_corpus": str(tmp_path / "other.txt")}}

    with pytest.raises(ResumeMismatchError, match="training data"):
        project.train(project.config(tmp_path / "run", changes=changes))


def test_another_machine_is_refused_by_name_unless_the_drift_is_allowed(project, tmp_path, monkeypatch, stop_at):
    config = project.config(tmp_path / "run")
    project.train(config, hooks=[stop_at(3)])
    monkeypatch.setattr("foundry_train.environment.cpu_name", lambda: "another processor")

    changed = project.config(tmp_path / "run", changes={"logging": {"log_every_steps": 7}})
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("config.json", "plan.json")}
    with pytest.raises(ResumeMismatchError, match=r"cpu: .* -> another processor"):
        project.train(changed)
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}
    summary = project.train(config, allow_numeric_drift=True)

    assert summary.steps == 12
    lineage = (summary.run_dir / "lineage.jsonl").read_text()
    assert "another processor" in lineage


class StopWhen(Hook):
    """Asks to stop at the start or the end of a run, once."""

    def __init__(self, moment):
        self.moment = moment

    def on_start(self, moment):
        if self.moment == "start":
            os.kill(os.getpid(), signal.SIGTERM)

    def on_end(self, moment):
        if self.moment == "end":
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("moment", ["start", "end"])
def test_a_stop_at_the_start_or_the_end_leaves_no_record_twice(project, read, tmp_path, moment):
    settings = {"checkpoint_schedule": (0, 6), "milestones": "full"}
    whole = project.train(project.config(tmp_path / "whole", **settings))
    config = project.config(tmp_path / "cut", **settings)

    stopped = project.train(config, hooks=[StopWhen(moment)])
    done = project.train(config)

    assert stopped.exit_code == 143 and done.steps == 12
    for kind in ("evaluation", "sample"):
        assert shorn(read.records(done.run_dir, kind)) == shorn(read.records(whole.run_dir, kind))
    saved = [(e["step"], e["label"]) for e in read.records(done.run_dir, "event") if e["event"] == "checkpoint"]
    assert len(saved) == len(set(saved)) == 3
    assert (done.first_loss, done.final_loss) == (whole.first_loss, whole.final_loss)


def shorn(records):
    return [{name: value for name, value in record.items() if name not in {"time", "attempt"}} for record in records]


def test_a_run_inside_its_own_corpus_folder_is_no_part_of_the_corpus(project, tmp_path, stop_at):
    corpus = tmp_path / "texts"
    corpus.mkdir()
    (corpus / "a.txt").write_text((project.folder / "corpus.txt").read_text())
    changes = {"data": {"source_corpus": str(corpus), "training_corpus": str(tmp_path / "prepared")}}

    stopped = project.train(project.config(corpus / "run", changes=changes), hooks=[stop_at(3)])
    again = project.train(project.config(corpus / "run", changes=changes))
    other = project.train(project.config(tmp_path / "other", changes=changes))

    assert (stopped.exit_code, again.resumed_from) == (143, 3)
    assert other.final_loss == again.final_loss


def test_going_back_on_another_machine_is_refused_before_any_checkpoint_is_moved(project, tmp_path, monkeypatch):
    config = project.config(tmp_path / "run", save_every_steps=4, keep_checkpoints=3)
    project.train(config)
    before = sorted((tmp_path / "run" / "checkpoints").iterdir())
    monkeypatch.setattr("foundry_train.environment.cpu_name", lambda: "another processor")

    with pytest.raises(ResumeMismatchError, match="another processor"):
        project.train(config, resume="step=4")

    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == before
    assert project.train(config, resume="step=4", allow_numeric_drift=True).steps == 12


def test_changing_what_does_not_matter_is_allowed(project, tmp_path, stop_at):
    project.train(project.config(tmp_path / "run"), hooks=[stop_at(3)])

    changes = {"evaluation": {"every_steps": 2}, "logging": {"log_every_steps": 1}}
    assert project.train(project.config(tmp_path / "run", changes=changes, keep_checkpoints=3)).steps == 12


def test_a_second_trainer_in_the_same_directory_is_refused(project, tmp_path):
    config = project.config(tmp_path / "run")

    with RunDirectory.open(tmp_path / "run", config), pytest.raises(RunLockedError):
        project.train(config)


@pytest.mark.parametrize("optimizer", ["sgd", "adafactor", "muon"])
def test_every_optimizer_resumes_bit_for_bit(project, read, tmp_path, optimizer, stop_at):
    whole = project.train(project.config(tmp_path / "whole", optimizer=optimizer))
    config = project.config(tmp_path / "cut", optimizer=optimizer)
    project.train(config, hooks=[stop_at(5)])

    assert read.weights(project.train(config)) == read.weights(whole)


def test_a_clock_that_jumps_by_years_changes_neither_the_training_nor_where_it_goes_on(
    project, read, tmp_path, monkeypatch, stop_at
):
    plain = project.train(project.config(tmp_path / "plain", save_every_steps=2))
    true_time, calls = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: true_time() + 366 * 86_400 * (-1) ** next(calls))
    config = project.config(tmp_path / "run", save_every_steps=2)
    stopped = project.train(config, hooks=[stop_at(7)])
    for age, folder in enumerate(sorted((tmp_path / "run" / "checkpoints").glob("step-*"))):
        os.utime(folder, (10**9 - age, 10**9 - age))  # the newest step looks oldest

    resumed = project.train(config)

    assert (stopped.steps, resumed.resumed_from) == (7, 7)
    assert read.losses(resumed) == read.losses(plain) and read.weights(resumed) == read.weights(plain)
