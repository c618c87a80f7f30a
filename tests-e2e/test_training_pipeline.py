"""Config -> data and model -> training -> checkpoints, through the command line."""

import json
import os
import sys

import pytest

from foundry_cli.main import main

pytestmark = pytest.mark.slow


def records(run, kind):
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_the_pipeline_leaves_all_that_a_run_consists_of(trained):
    names = {path.name for path in trained.run.iterdir()}

    assert {
        "run.json",
        "config.json",
        "status.json",
        "lineage.jsonl",
        "metrics.jsonl",
        "checkpoints",
        "latest",
    } <= names
    assert json.loads((trained.run / "status.json").read_text())["step"] == 10


def test_checkpoints_are_saved_at_the_steps_of_the_schedule(trained):
    saved = sorted(path.name for path in (trained.run / "checkpoints").glob("step-*"))

    assert saved == ["step-00000005", "step-00000010"]


def test_every_step_is_in_the_metrics_with_finite_numbers(trained):
    for record in trained.steps:
        assert {"step", "loss", "lr", "grad_norm", "tokens", "words", "tokens_per_second"} <= record.keys()
        assert all(isinstance(record[name], int | float) for name in ("loss", "lr", "grad_norm"))
    assert [record["tokens"] for record in trained.steps] == sorted(record["tokens"] for record in trained.steps)


def test_the_learning_rate_warms_up_over_two_steps_and_falls_to_nothing(trained):
    rates = [record["lr"] for record in trained.steps]

    assert max(rates) == pytest.approx(1e-2)
    assert rates.index(max(rates)) <= 2
    assert rates[-1] < rates[2]


def test_the_plan_before_training_is_what_happens(trained, foundry):
    plan = foundry("plan", trained.config, "--prepare", "--json").json

    assert plan["total_steps"] == trained.summary["total_steps"]
    assert [item["step"] for item in plan["checkpoints"]] == [5, 10]


def stage_stamps(folder):
    """When each file was written, but for the memory of digests, which learns of files once they are at rest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "digests.json")
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_second_run_reuses_the_prepared_stages_and_gives_the_same_losses(trained, foundry):
    before = stage_stamps(trained.folder / "data")

    answer = foundry("train", trained.config, "--set", "training.output_dir=runs/again", "--json")

    assert answer.code == 0, answer.err
    assert stage_stamps(trained.folder / "data") == before
    again = [record["loss"] for record in records(trained.folder / "runs" / "again", "step")]
    assert again == [record["loss"] for record in trained.steps]


def test_metrics_are_mirrored_to_weights_and_biases_offline(workspace, foundry, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.chdir(workspace)
    settings = (
        "logging.use_wandb=true",
        "logging.wandb_mode=offline",
        "training.train_steps=3",
        "training.checkpoint_schedule=[3]",
    )

    answer = foundry("train", "tiny.json", *(word for item in settings for word in ("--set", item)))

    assert answer.code == 0, answer.err
    assert len(records(workspace / "runs" / "tiny", "step")) == 3
    assert list(workspace.rglob("*.wandb"))


def test_no_secret_of_the_environment_is_written_anywhere(workspace, foundry, monkeypatch):
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary-of-a-secret")

    answer = foundry(
        "train", workspace / "tiny.json", "--set", "training.train_steps=2", "--set", "training.checkpoint_schedule=[2]"
    )

    assert answer.code == 0, answer.err
    assert "canary-of-a-secret" not in answer.out + answer.err
    assert [
        path for path in workspace.rglob("*") if path.is_file() and b"canary-of-a-secret" in path.read_bytes()
    ] == []


def test_training_needs_no_network(workspace, foundry, monkeypatch):
    import socket

    def refuse(*_: object, **__: object):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    answer = foundry(
        "train", workspace / "tiny.json", "--set", "training.train_steps=2", "--set", "training.checkpoint_schedule=[2]"
    )

    assert answer.code == 0, answer.err


def test_training_goes_on_when_nobody_reads_its_output(workspace, monkeypatch):
    """As after `head` has left in `foundry train | head -1`: real pipes, whose readers are gone."""
    for name in ("stdout", "stderr"):
        reader, writer = os.pipe()
        os.close(reader)
        monkeypatch.setattr(sys, name, os.fdopen(writer, "w"))

    with pytest.raises(SystemExit) as end:
        main(["train", str(workspace / "tiny.json"), "--set", "logging.log_every_steps=1"])

    assert end.value.code == 0
    assert len(records(workspace / "runs" / "tiny", "step")) == 10
