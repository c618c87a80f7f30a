"""A stretch of a run is trained again apart from it: the same weights come out, and nothing outside hears of it."""

from pathlib import Path

import pytest

from foundry_train.replay import trainer_replay
from foundry_train.verify import verify_run

pytestmark = pytest.mark.slow


def test_training_again_reaches_the_same_weights_and_leaves_no_trace(project, tmp_path, capfd):
    changes = {"logging": {"dir": str(tmp_path / "logs"), "use_tensorboard": False}}
    config = project.config(tmp_path / "run", changes=changes, save_every_steps=4, stop_after="1h")
    run = project.train(config).run_dir
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capfd.readouterr()

    report = verify_run(run, replay=8, replayer=trainer_replay(run, project.folder))

    assert report.ok and report.replayed == (4, 12)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert capfd.readouterr() == ("", "")


def test_a_run_is_replayed_wherever_it_lies_and_however_it_is_called(project, tmp_path, monkeypatch):
    run = project.train(project.config(tmp_path / "run", save_every_steps=4)).run_dir
    run.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)

    report = verify_run(Path("moved"), replay=4, replayer=trainer_replay(Path("moved"), project.folder))

    assert report.ok and report.replayed == (8, 12)


def test_weights_that_this_run_would_not_reach_are_found(project, tmp_path):
    run = project.train(project.config(tmp_path / "run", save_every_steps=4)).run_dir
    same_tokenizer = {"source": str(run / "latest")}
    changes = {"random_seed": 8, "tokenizer": same_tokenizer}
    other = project.config(tmp_path / "other", changes=changes, save_every_steps=4)
    replayer = trainer_replay(project.train(other).run_dir, project.folder)

    report = verify_run(run, replay=4, replayer=replayer)

    assert next(item.message for item in report.findings if item.is_error).startswith("training again from step 8")
