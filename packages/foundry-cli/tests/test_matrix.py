"""One config, many runs: how the commands show, check, prepare and train the runs of `matrix:`."""

import json
from pathlib import Path
from typing import Any

import pytest

from foundry_cli.commands.train import rehearse_all
from foundry_config.errors import FoundryError, NonFiniteError, StorageError
from foundry_train.signals import Stopped


@pytest.fixture
def matrix(project):
    project.write_text(project.read_text() + "\nmatrix:\n  random_seed: [1, 2]\n")
    return project


def test_the_runs_of_a_matrix_are_listed(foundry, matrix):
    rows = json.loads(foundry("train", matrix, "--matrix", "--list", "--json").out)

    assert [(row["index"], row["random_seed"], row["state"]) for row in rows] == [(0, 1, "missing"), (1, 2, "missing")]
    assert "missing" in foundry("train", matrix, "--matrix", "--list").out


@pytest.fixture
def errors() -> dict[int, FoundryError]:
    """What training raises, by seed."""
    return {}


@pytest.fixture
def trained_cells(monkeypatch, errors) -> list[tuple[int, str]]:
    """Training is a stand-in that notes the seed; it leaves a run that is done, unless asked to stop the seed 2."""
    from foundry_cli.commands import train as command
    from foundry_train.summary import TrainingSummary

    seen: list[tuple[int, str]] = []

    def run_training(experiment: Any, *, resume: str, **_: Any) -> TrainingSummary:
        seed, run = experiment.config.random_seed, experiment.paths.run
        seen.append((seed, experiment.config.training.output_dir))
        if seed in errors:
            raise errors[seed]
        stopped = "SIGTERM" if resume == "never" and seed == 2 else None
        run.mkdir(parents=True, exist_ok=True)
        (run / "status.json").write_text(json.dumps({"phase": "stopped" if stopped else "done"}))
        return TrainingSummary(
            experiment_name="tiny",
            run_dir=run,
            steps=4,
            total_steps=4,
            epochs=1.0,
            stopped_by=stopped,
            exit_code=143 if stopped else 0,
        )

    monkeypatch.setattr(command, "run_training", run_training)
    monkeypatch.setattr(command, "rehearse_all", lambda cells, base_dir: None)  # needs PyTorch
    return seen


def test_a_matrix_trains_every_run_that_is_missing(foundry, matrix, trained_cells):
    assert foundry("train", matrix, "--matrix").code == 0
    assert [seed for seed, _ in trained_cells] == [1, 2]
    assert len({folder for _, folder in trained_cells}) == 2


def test_a_matrix_says_once_what_to_do_next_with_all_of_its_runs(foundry, matrix, trained_cells):
    answer = foundry("train", matrix, "--matrix")

    assert answer.out.count("Next:") == 1
    assert "2 of 2 runs of the matrix are done" in answer.out
    assert f"foundry evaluate {folder_of(trained_cells)}/* --checkpoints all" in answer.out
    assert f"foundry report {folder_of(trained_cells)}/* --out report.html" in answer.out
    assert "--matrix" not in answer.out
    assert foundry("train", matrix, "--matrix").out == answer.out[answer.out.index("\n" + str(matrix)) :]


def folder_of(cells: list[tuple[int, str]]) -> str:
    [folder] = {str(Path(output_dir).parent) for _, output_dir in cells}
    return folder


def test_a_matrix_that_is_stopped_says_how_to_go_on(foundry, matrix, trained_cells):
    answer = foundry("train", matrix, "--matrix", "--resume", "never")

    assert answer.code == 143
    assert "1 of 2 runs of the matrix are done" in answer.out
    assert f"foundry train {matrix} --matrix\n" in answer.out


def test_a_run_that_fails_keeps_no_other_one_waiting(foundry, matrix, trained_cells, errors):
    errors[1] = NonFiniteError("loss nan at step 3")

    answer = foundry("train", matrix, "--matrix")

    assert [seed for seed, _ in trained_cells] == [1, 2]
    assert answer.code == NonFiniteError.exit_code and "error: loss nan at step 3" in answer.err
    assert "1 of 2 runs of the matrix are done\n1 failed, for the reasons above: seed-1\n" in answer.out
    assert f"foundry train {matrix} --matrix\n      train what is missing" in answer.out


@pytest.mark.parametrize("error", [StorageError("the disk is full"), Stopped("SIGTERM", 15)])
def test_what_ends_every_run_ends_the_matrix(foundry, matrix, trained_cells, errors, error):
    errors[1] = error

    assert foundry("train", matrix, "--matrix").code == error.exit_code
    assert [seed for seed, _ in trained_cells] == [1]


def test_of_several_processes_none_goes_on_alone(foundry, matrix, trained_cells, errors, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    errors[1] = NonFiniteError("loss nan at step 3")

    assert foundry("train", matrix, "--matrix").code == NonFiniteError.exit_code
    assert [seed for seed, _ in trained_cells] == [1]


def test_a_matrix_as_json_is_one_list(foundry, matrix, trained_cells):
    first, second = json.loads(foundry("train", matrix, "--matrix", "--json").out)

    assert first["run_dir"] != second["run_dir"]
    assert json.loads(foundry("train", matrix, "--matrix", "--json").out) == []


def test_a_run_of_an_index_is_gone_on_with_by_its_index(foundry, matrix, trained_cells):
    answer = foundry("train", matrix, "--matrix", "--index", 1, "--resume", "never")

    assert f"foundry train {matrix} --matrix --index 1\n" in answer.out


def test_an_index_trains_that_run_only(foundry, matrix, trained_cells):
    assert foundry("train", matrix, "--matrix", "--index", 1).code == 0
    assert [seed for seed, _ in trained_cells] == [2]


@pytest.mark.parametrize(("arguments", "word"), [(["--list"], "--matrix"), (["--matrix", "--index", 7], "--index 7")])
def test_a_matrix_that_is_not_there_is_refused(foundry, matrix, trained_cells, arguments, word):
    answer = foundry("train", matrix, *arguments)

    assert answer.code == 2
    assert word in answer.err


def test_a_config_without_a_matrix_has_none_to_train(foundry, project, trained_cells):
    assert foundry("train", project, "--matrix").code == 2


def test_validate_counts_the_runs_and_refuses_one_that_breaks_a_rule(foundry, matrix):
    good = foundry("validate", matrix)
    bad = foundry("validate", matrix, "--set", 'matrix={"model.attention_heads": [4, 3]}')

    assert (good.code, bad.code) == (0, 2)
    assert "2 runs in its matrix" in good.out
    assert "run 2 of the matrix (attention_heads-3_seed-1)" in bad.err


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_steps_that_do_not_exist_are_refused_in_any_run_and_all_at_once(foundry, project, command):
    own = 'dataset_manipulation=[{"name": "lowercas"}]'
    answer = foundry(command, project, "--set", own, "--set", 'matrix={"dataset_manipulation": ["lowrcase", "none"]}')

    assert answer.code == 2
    assert "dataset_manipulation[0]: " in answer.err
    assert "'lowercas'" in answer.err
    assert "run 0 of the matrix (lowrcase): dataset_manipulation[0]" in answer.err


def test_a_plan_is_that_of_a_run(foundry, project):
    vary = ("--set", 'matrix={"training.train_steps": [100, 300], "random_seed": [4]}')
    first, second = (json.loads(foundry("plan", project, *vary, "--index", i, "--json").out) for i in (0, 1))

    assert (first["total_steps"], second["total_steps"]) == (100, 300)
    assert first["matrix"] == {"index": 0, "runs": ["train_steps-100_seed-4", "train_steps-300_seed-4"]}
    assert foundry("plan", project, *vary).out.startswith("run 0 of 2 in the matrix, train_steps-100_seed-4; --index")
    assert json.loads(foundry("plan", project, "--json").out)["matrix"] is None


@pytest.mark.parametrize("command", ["plan", "preprocess"])
def test_a_run_that_is_not_in_the_matrix_is_refused(foundry, matrix, project, command):
    answer = foundry(command, matrix, "--index", 2)

    assert (answer.code, "the matrix has 2 runs, 0 to 1" in answer.err) == (2, True)


def test_the_data_of_every_run_are_prepared_and_shared(foundry, project):
    (project.parent / "held_out.txt").write_text("a text that\nis held out")
    study = (
        "--set",
        "data.test_corpus=held_out.txt",
        "--set",
        'matrix={"random_seed": [1, 2], "dataset_manipulation": ["none", "lowercase"]}',
    )
    rows = json.loads(foundry("preprocess", project, *study, "--matrix", "--json").out)
    single = json.loads(foundry("preprocess", project, *study, "--index", 3, "--json").out)

    assert [(row["index"], row["name"]) for row in rows] == [
        (0, "none_seed-1"),
        (1, "none_seed-2"),
        (2, "lowercase_seed-1"),
        (3, "lowercase_seed-2"),
    ]
    folders = [row["train"]["folder"] for row in rows]
    assert folders[0] == folders[1] != folders[2] == folders[3]
    assert single["train"]["folder"] == folders[3]


def test_a_part_of_one_run_says_how_its_parts_are_joined(foundry, matrix):
    answer = foundry("preprocess", matrix, "--index", 1, "--shard", "1/2")

    assert (answer.code, "`foundry preprocess --index 1 --merge`" in answer.out) == (0, True)


@pytest.mark.parametrize("option", [("--force",), ("--merge",), ("--shard", "1/2"), ("--index", 0)])
def test_preprocessing_a_matrix_leaves_no_choice_of_run(foundry, matrix, option):
    answer = foundry("preprocess", matrix, "--matrix", *option)

    assert (answer.code, "--index" in answer.err) == (2, True)


def test_a_matrix_that_is_not_asked_for_is_mentioned(foundry, matrix, trained_cells):
    assert "none of the 2 runs of its matrix; --matrix" in foundry("train", matrix).err
    assert "none of the 2 runs" not in foundry("train", matrix, "--matrix").err


def test_no_run_is_trained_while_another_has_a_step_that_does_not_exist(foundry, project, trained_cells):
    study = ("--set", 'matrix={"dataset_manipulation": ["none", "lowrcase"]}')
    answer = foundry("train", project, *study, "--matrix")

    assert (answer.code, trained_cells) == (2, [])
    assert "Did you mean 'lowercase'?" in answer.err
    assert foundry("train", project, *study, "--matrix", "--list").code == 0


@pytest.mark.parametrize("command", [("train", "--matrix"), ("validate",), ("plan",), ("preprocess",)], ids=" ".join)
def test_what_an_architecture_cannot_honour_is_found_in_any_run_and_all_at_once(
    foundry, project, trained_cells, command
):
    study = ("--set", 'matrix={"model.architecture": ["gpt2", "llama", "olmo2"]}', "--set", "model.dropout=0.1")
    answer = foundry(command[0], project, *study, *command[1:])

    assert (answer.code, trained_cells) == (2, [])
    assert "error: run 1 of the matrix (architecture-llama): model.dropout: llama has no dropout" in answer.err
    assert "\nrun 2 of the matrix (architecture-olmo2): model.dropout: olmo2 has no dropout" in answer.err


def test_the_config_as_it_stands_need_not_be_one_that_trains(foundry, project):
    study = ("--set", 'matrix={"model.architecture": ["gpt2", "opt"]}', "--set", "model.dropout=0.1")

    assert foundry("validate", project, *study, "--set", "model.architecture=llama").code == 0
    assert foundry("validate", project, *study[2:], "--set", "model.architecture=llama").code == 2


@pytest.mark.slow
def test_no_run_is_trained_while_another_cannot_be(foundry, project, trained_cells, monkeypatch):
    from foundry_cli.commands import train as command

    monkeypatch.setattr(command, "rehearse_all", rehearse_all)
    study = ("--set", 'matrix={"model.attention": ["auto", "flash_attention_2"]}', "--set", "training.device=cpu")
    answer = foundry("train", project, *study, "--matrix")

    assert (answer.code, trained_cells) == (2, [])
    assert "checking 2 runs" in answer.err
    assert "run 1 of the matrix (attention-flash_attention_2): model.attention: 'flash_attention_2' ca" in answer.err
