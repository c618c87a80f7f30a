"""Snapshots hold what a reader needs and no secret."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foundry_train import environment
from foundry_train.environment import (
    environment_snapshot,
    get_git_commit_hash,
    git_state,
    hardware,
    numeric_fingerprint,
    redact,
)

CPU = torch.device("cpu")


@pytest.fixture
def repository(tmp_path):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file.txt").write_text("one\n")
    git("add", "file.txt")
    git("commit", "-qm", "first")
    return tmp_path, git("rev-parse", "HEAD")


@pytest.mark.slow
def test_git_commit_hash_is_that_of_the_repository_around_the_path(repository):
    folder, commit = repository
    (folder / "sub").mkdir()

    assert get_git_commit_hash(folder / "sub") == commit


@pytest.mark.slow
def test_git_commit_hash_is_unknown_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    assert get_git_commit_hash(tmp_path) == "unknown"
    assert git_state(tmp_path) == {"commit": "unknown", "dirty": None, "diff": None}


def test_git_commit_hash_is_unknown_when_there_is_no_git(monkeypatch, tmp_path):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(environment.subprocess, "run", missing)

    assert get_git_commit_hash(tmp_path) == "unknown"


@pytest.mark.slow
def test_git_state_notices_changed_files_and_digests_the_change(repository):
    folder, commit = repository
    clean = git_state(folder)
    (folder / "file.txt").write_text("two\n")
    changed = git_state(folder)

    assert clean == {"commit": commit, "dirty": False, "diff": None}
    assert changed["dirty"] is True and changed["diff"].startswith("sha256:")


@pytest.mark.slow
def test_snapshot_is_json_and_names_python_packages_git_hardware_and_command(repository, monkeypatch):
    folder, commit = repository
    monkeypatch.setattr(sys, "argv", ["foundry", "train", "my.yaml"])

    snapshot = json.loads(json.dumps(environment_snapshot(CPU, folder)))

    assert snapshot["python"] == sys.version
    assert snapshot["packages"]["torch"] == torch.__version__.partition("+")[0] or "torch" in snapshot["packages"]
    assert snapshot["git"]["commit"] == commit
    assert snapshot["hardware"]["cores"] >= 1 and snapshot["hardware"]["memory_bytes"] > 2**20
    assert snapshot["command"] == ["foundry", "train", "my.yaml"]


@pytest.mark.slow
def test_snapshot_holds_no_secret_of_the_environment_or_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "canary-one")
    monkeypatch.setenv("HF_TOKEN", "canary-two")
    monkeypatch.setattr(sys, "argv", ["foundry", "--set", "wandb_api_key=canary-three"])

    text = json.dumps(environment_snapshot(CPU, tmp_path))

    assert "canary" not in text


@pytest.mark.parametrize("argument", ["--token=abc", "HF_TOKEN=abc", "api_key: abc", "--password abc"])
def test_values_that_look_like_secrets_are_redacted(argument):
    assert "abc" not in redact(argument)


def test_a_number_of_tokens_is_no_secret():
    assert redact("evaluation.sample_tokens=60") == "evaluation.sample_tokens=60"


def test_numeric_fingerprint_is_the_same_twice_and_names_what_differs(monkeypatch):
    model = torch.nn.Linear(2, 2)

    first = numeric_fingerprint(CPU, model=model, precision="bf16")
    second = numeric_fingerprint(CPU, model=model, precision="bf16")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    third = numeric_fingerprint(CPU, model=model, precision="bf16")

    assert first == second == json.loads(json.dumps(first))
    assert {key for key in first if first[key] != third[key]} == {"threads"}
    assert first["model_source"].startswith("sha256:")


def test_numeric_fingerprint_of_cuda_names_card_and_libraries(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some Card")

    fingerprint = numeric_fingerprint(torch.device("cuda"))

    assert fingerprint["cuda"]["device"] == "Some Card"


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build", "570.133.20"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build", "580.65.06"),
    ],
)
def test_the_driver_is_told_by_its_version(monkeypatch, line, version):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"{line}\nGCC version: 12.2.0\n")

    assert hardware(torch.device("cuda"))["driver"] == version


def test_hardware_lists_the_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")

    assert hardware(torch.device("cuda"))["gpus"] == ["Card 0", "Card 1"]
