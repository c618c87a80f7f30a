"""What a user can get wrong: one message that names the thing and what to do, the exit code, and nothing harmed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG, DATA, CHECKPOINT, MISMATCH, LOCKED, STORAGE = 2, 3, 4, 5, 6, 7


def refused(answer, code: int, *words: str) -> None:
    """Assert that a command ended with one clear message."""
    assert answer.code == code, answer.err
    assert answer.err.count("error:") == 1
    assert "Traceback" not in answer.err
    message = answer.err[answer.err.index("error:") :]
    assert [word for word in words if word not in message] == [], message


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("bad.yaml", "empty")),
        ("data: [1, 2\nmodel: {", ("bad.yaml:",)),
        ("experiment_name: x\nmodle: {}\n", ("bad.yaml:2:1", "modle", "Did you mean 'model'?")),
        ("training:\n  learning_rate: fast\n", ("bad.yaml:2:18", "training.learning_rate", "fast")),
        ("a: &a [*a]\n", ("bad.yaml",)),
        ("\x1b[31mred: 1\n", ("bad.yaml",)),
    ],
)
@pytest.mark.parametrize("command", ["train", "validate", "plan", "preprocess"])
def test_a_config_that_cannot_be_used_is_named_with_its_place(foundry, workspace, command, text, words):
    bad = workspace / "bad.yaml"
    bad.write_text(text)
    before = contents(workspace)

    answer = foundry(command, bad)

    refused(answer, CONFIG, *words)
    assert "\x1b" not in answer.err
    assert contents(workspace) == before


@pytest.mark.parametrize("command", ["train", "validate", "plan", "preprocess"])
def test_a_missing_config_and_a_folder_are_refused(foundry, workspace, command):
    refused(foundry(command, workspace / "nothing.yaml"), CONFIG, "nothing.yaml")
    refused(foundry(command, workspace), CONFIG, str(workspace))


def test_every_problem_is_reported_at_once_overrides_included(foundry, workspace):
    answer = foundry("train", workspace / "tiny.json", "--set", "model.layers=0", "--set", "training.optimiser=adamw")

    refused(answer, CONFIG, "--set model.layers=0", "--set training.optimiser=adamw", "Did you mean 'optimizer'?")


@pytest.mark.parametrize("resume", ["perhaps", "step=", "step=x", ""])
def test_an_unknown_way_to_resume_is_refused(foundry, workspace, resume):
    refused(
        foundry("train", workspace / "tiny.json", "--resume", resume), CONFIG, "--resume", "auto, never, must, step=N"
    )


@pytest.mark.parametrize("name", ["../x", "/etc/x", "-x", "a b", "x" * 300, "a\x00b", "é"])
def test_an_experiment_name_cannot_lead_out_of_its_folder(foundry, workspace, name):
    refused(foundry("validate", workspace / "tiny.json", "--set", f'experiment_name="{name}"'), CONFIG)


def test_a_base_dir_that_is_no_folder_is_refused(foundry, workspace):
    answer = foundry("train", workspace / "tiny.json", "--base-dir", workspace / "nowhere")

    refused(answer, CONFIG, "--base-dir", "nowhere")


def test_a_missing_corpus_is_named(foundry, workspace):
    (workspace / "corpus.txt").unlink()
    before = contents(workspace)

    refused(foundry("preprocess", workspace / "tiny.json"), DATA, "corpus.txt")

    assert contents(workspace).items() >= before.items()


def test_an_empty_corpus_is_named(foundry, workspace):
    (workspace / "corpus.txt").write_text("")

    refused(foundry("preprocess", workspace / "tiny.json"), DATA, "corpus.txt")


def test_a_corpus_of_another_kind_of_file_is_named(foundry, workspace):
    (workspace / "corpus.exe").write_bytes(b"MZ\x00\x01")

    refused(
        foundry("preprocess", workspace / "tiny.json", "--set", "data.source_corpus=corpus.exe"), DATA, "corpus.exe"
    )


@pytest.mark.slow
def test_a_corpus_smaller_than_one_sequence_is_refused(foundry, workspace):
    set_options = ("--set", "data.packing=concat", "--set", "data.max_sequence_length=100000")

    answer = foundry("train", workspace / "tiny.json", *set_options)

    assert answer.code in (CONFIG, DATA), answer.err
    refused(answer, answer.code, "sequence")


@pytest.mark.slow
def test_an_output_folder_that_cannot_be_written_is_named(foundry, workspace):
    (workspace / "runs").write_text("a file where the runs should go")
    before = contents(workspace)

    refused(foundry("train", workspace / "tiny.json"), STORAGE, "runs")

    assert contents(workspace).items() >= before.items()


HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.distributed
def test_a_second_trainer_on_the_same_run_is_refused_while_the_first_one_works(foundry, workspace):
    run = workspace / "runs" / "tiny"
    short = ("--set", "training.train_steps=2", "--set", "training.checkpoint_schedule=[2]")
    assert foundry("train", workspace / "tiny.json", *short).code == 0
    before = contents(run)

    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(run / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        answer = foundry("train", workspace / "tiny.json", *short)
        holder.stdin.close()

    refused(answer, LOCKED, "tiny")
    assert contents(run) == before


@pytest.mark.slow
def test_another_experiment_does_not_go_on_in_the_run_of_the_first(foundry, trained, tmp_path):
    before = contents(trained.run)

    answer = foundry("train", trained.config, "--set", "model.layers=3")

    refused(answer, MISMATCH, "model.layers", "2", "3")
    assert contents(trained.run / "checkpoints") == {p: b for p, b in before.items() if "checkpoints" in p.parts}


@pytest.mark.parametrize("command", ["generate", "checkpoints", "verify", "info"])
def test_a_run_that_does_not_exist_is_named(foundry, tmp_path, command):
    refused(foundry(command, tmp_path / "nowhere"), CHECKPOINT, "nowhere")
    refused(foundry(command, tmp_path), CHECKPOINT, str(tmp_path))


@pytest.mark.parametrize("command", ["generate", "checkpoints", "verify", "info"])
def test_the_run_of_an_experiment_that_was_not_trained_is_named(foundry, workspace, command):
    refused(foundry(command, workspace / "tiny.json"), CHECKPOINT, "tiny", "foundry train")


def test_a_prompt_that_is_no_utf8_is_refused(foundry, tmp_path):
    refused(foundry("generate", tmp_path, "--prompt", "caf\udce9"), CONFIG, "--prompt", "not valid UTF-8")


@pytest.mark.slow
def test_a_locale_without_utf8_changes_nothing(workspace):
    """Not under plain LC_ALL=C either, which Python itself takes for UTF-8: a locale of another encoding."""
    (workspace / "tiny.json").rename(workspace / "é ß.json")
    command = [sys.executable, "-m", "foundry_cli", "validate", "é ß.json", "--set", "data.source_corpus=ß.txt"]

    done = subprocess.run(
        command, cwd=workspace, capture_output=True, check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith("é ß.json: valid")


@pytest.mark.slow
def test_results_that_find_no_room_end_with_the_code_of_storage():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "foundry_cli", "schema"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == STORAGE
    assert done.stderr.startswith("error: standard output could not be written: No space left on device; free some")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_not_used(foundry, trained, tmp_path):
    import shutil

    copy = shutil.copytree(trained.run, tmp_path / "copy", symlinks=True)
    weights = copy / "checkpoints" / "step-00000010" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    refused(foundry("generate", copy, "--checkpoint", "10"), CHECKPOINT, "model.safetensors")
    assert "model.safetensors" in foundry("checkpoints", copy).out
    assert foundry("generate", copy, "--max-tokens", 2).code == 0  # the newest sound one


@pytest.mark.slow
def test_a_checkpoint_that_the_run_does_not_have_is_refused_with_those_it_has(foundry, trained):
    refused(foundry("generate", trained.run, "--checkpoint", "7"), CHECKPOINT, "'7'", "5, 10")
