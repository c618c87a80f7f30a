"""Where a run begins: never anew without a word, never from what it was not made from, never without room for it."""

import errno
import json
import math
import os
import shutil
from pathlib import Path

import pytest

from foundry_config.errors import CheckpointError, ResumeMismatchError, StorageError
from foundry_data import fs
from foundry_train import Hook
from foundry_train.summary import write_summary

pytestmark = pytest.mark.slow


class FailAt(Hook):
    """Ends a run after a step, as a crash would: nothing is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, moment):
        if moment.step == self.step:
            raise ZeroDivisionError("a crash")


def crash(project, config, *, after: int, **settings) -> Path:
    with pytest.raises(RuntimeError, match="a crash"):
        project.train(config, hooks=[FailAt(after)], **settings)
    return Path(config.training.output_dir)


def damage(run: Path) -> None:
    for file in (run / "checkpoints").glob("step-*/trainer/optimizer.safetensors"):
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_every_time(project, tmp_path):
    config = project.config(tmp_path / "run", save_every_steps=2)
    damage(crash(project, config, after=5))

    with pytest.raises(CheckpointError, match="no valid checkpoint is left"):
        project.train(config)
    with pytest.raises(CheckpointError, match=r"although the run has saved some, the last at step 4\n") as again:
        project.train(config)

    assert again.value.exit_code == 4
    assert ".quarantine/step-00000002: trainer/optimizer.safetensors is damaged" in str(again.value)
    assert ".quarantine/step-00000004: trainer/optimizer.safetensors is damaged" in str(again.value)


def test_a_run_whose_checkpoints_were_deleted_begins_anew_only_when_told_to(project, tmp_path):
    config = project.config(tmp_path / "run", save_every_steps=2)
    shutil.rmtree(crash(project, config, after=3) / "checkpoints")

    with pytest.raises(CheckpointError, match="no full checkpoint is left"):
        project.train(config)

    assert project.train(config, resume="never").steps == 12


@pytest.fixture
def parent(project, tmp_path) -> Path:
    """A run to fork from, with full checkpoints at the steps 4, 8 and 12 and weights at 2."""
    config = project.config(tmp_path / "parent", save_every_steps=4, keep_checkpoints=5, checkpoint_schedule=(2,))
    return project.train(config).run_dir


def test_a_fork_with_only_weights_of_its_own_begins_again_at_its_source_and_not_at_step_0(project, parent, tmp_path):
    source = parent / "checkpoints/step-00000004"
    config = project.config(tmp_path / "fork", checkpoint_schedule=(6,))
    crash(project, config, after=7, fork=source)

    with pytest.raises(CheckpointError, match="give --fork again"):
        project.train(config)

    assert project.train(config, fork=source).resumed_from == 4


def test_a_fork_that_has_its_own_checkpoints_no_longer_needs_its_source(project, parent, tmp_path):
    source = parent / "checkpoints/step-00000004"
    config = project.config(tmp_path / "fork", save_every_steps=2)
    crash(project, config, after=7, fork=source)
    shutil.rmtree(parent)

    assert project.train(config, fork=source).resumed_from == 6


def test_a_run_is_never_silently_taken_for_a_fork_of_something_else(project, parent, tmp_path):
    config = project.config(tmp_path / "fork", save_every_steps=2)
    crash(project, config, after=7, fork=parent / "checkpoints/step-00000004")

    with pytest.raises(ResumeMismatchError, match=r"is a fork of step 4 of the run .*, not of step 8 of the run"):
        project.train(config, fork=parent / "checkpoints/step-00000008")
    own = project.config(tmp_path / "parent", save_every_steps=4, keep_checkpoints=5, checkpoint_schedule=(2,))
    with pytest.raises(ResumeMismatchError, match="began at step 0, not of step 6 of the run"):
        project.train(own, fork=tmp_path / "fork/checkpoints/step-00000006")


def test_weights_alone_cannot_be_forked_and_the_steps_that_can_are_named(project, parent, tmp_path):
    with pytest.raises(CheckpointError, match=r"step-00000002: weights only.* full ones of the steps 4, 8, 12"):
        project.train(project.config(tmp_path / "fork"), fork=parent / "checkpoints/step-00000002")

    assert not (tmp_path / "fork/run.json").exists()


def test_a_run_that_never_began_does_not_bind_a_corrected_config(project, parent, tmp_path):
    source = parent / "checkpoints/step-00000004"
    with pytest.raises(ResumeMismatchError, match="use the config that it was saved with"):
        project.train(project.config(tmp_path / "fork", changes={"model": {"architecture": "gpt2"}}), fork=source)

    assert project.train(project.config(tmp_path / "fork"), fork=source).resumed_from == 4


def test_a_schedule_that_does_not_fit_ends_before_the_first_step(project, tmp_path, monkeypatch):
    monkeypatch.setattr(fs.Backend, "free_bytes", lambda self, path: 1_000_000)

    with pytest.raises(StorageError, match=r"0 milestones x .* \+ 3 full x .* needed, 1\.000 MB free") as refused:
        project.train(project.config(tmp_path / "run"))

    assert refused.value.exit_code == 7
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_a_disk_that_is_full_at_the_start_is_no_bug_of_ours(project, tmp_path, monkeypatch):
    real = fs.write_atomic

    def full(path, data):
        if path.name in {"plan.json", "run.json"}:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, data)

    monkeypatch.setattr(fs, "write_atomic", full)
    with pytest.raises(StorageError, match=r"cannot write .*run\.json: No space left on device \(ENOSPC\)"):
        project.train(project.config(tmp_path / "run"))


def test_a_summary_that_cannot_be_written_does_not_undo_the_run(project, tmp_path, monkeypatch, caplog):
    real = fs.write_atomic

    def full(path, data):
        if path.name == "summary.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, data)

    monkeypatch.setattr(fs, "write_atomic", full)

    assert project.train(project.config(tmp_path / "run")).steps == 12
    assert "summary.json could not be written" in caplog.text


def test_the_summary_of_a_run_that_diverged_holds_numbers(project, tmp_path):
    config = project.config(tmp_path / "run")
    project.train(config)
    metrics = tmp_path / "run" / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    spoiled = [record | ({"loss": "nan"} if record.get("suite") == "test" else {}) for record in records]
    metrics.write_text("".join(json.dumps(record) + "\n" for record in spoiled))

    summary = project.train(config)
    write_summary(summary)

    assert summary.already_done and math.isnan(summary.test_loss_after)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_loss_after"] == "nan"


def test_a_run_directory_that_is_moved_away_ends_the_run_and_is_not_made_again(project, tmp_path):
    class Move(Hook):
        def on_step(self, moment):
            if moment.step == 3:
                (tmp_path / "run").rename(tmp_path / "elsewhere")

    with pytest.raises(StorageError, match="was removed, moved or replaced") as ended:
        project.train(project.config(tmp_path / "run", save_every_steps=2), hooks=[Move()])

    assert ended.value.exit_code == 7
    assert not os.path.lexists(tmp_path / "run")


def test_the_status_of_a_failed_run_says_how_far_it_came(project, tmp_path):
    run = crash(project, project.config(tmp_path / "run"), after=5)

    status = json.loads((run / "status.json").read_bytes())
    assert (status["phase"], status["step"]) == ("failed", 5)
