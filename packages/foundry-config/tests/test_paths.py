"""Where an experiment reads and writes."""

from pathlib import Path

import pytest

from foundry_config import ExperimentPaths, find_project_root, replace_fields


@pytest.mark.parametrize("mark", [".git", "pyproject.toml"])
def test_the_project_root_is_the_nearest_parent_with_a_mark(tmp_path, mark):
    nested = tmp_path / "project" / "configs" / "deep"
    nested.mkdir(parents=True)
    (tmp_path / "project" / mark).mkdir()

    assert find_project_root(nested) == (tmp_path / "project").resolve()
    assert find_project_root(nested / "experiment.yaml") == (tmp_path / "project").resolve()


def test_the_nearest_of_several_roots_wins(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / ".git").mkdir()
    (inner / "pyproject.toml").touch()

    assert find_project_root(inner) == inner.resolve()


def test_without_a_mark_the_folder_of_the_config_is_the_root(tmp_path, monkeypatch):
    monkeypatch.setattr("foundry_config.paths.MARKS", ("no-such-mark-anywhere",))
    config = tmp_path / "experiment.yaml"
    config.touch()

    assert find_project_root(config) == tmp_path.resolve()
    assert find_project_root(tmp_path) == tmp_path.resolve()


def test_relative_paths_count_from_the_base_directory(tiny_config, tmp_path):
    paths = ExperimentPaths(tiny_config, tmp_path)

    assert paths.run == tmp_path / "test" / "output"
    assert paths.checkpoints == paths.run / "checkpoints"
    assert paths.metrics == paths.run / "metrics.jsonl"
    assert paths.status == paths.run / "status.json"
    assert paths.logs == tmp_path / "test" / "logs"
    assert paths.prepared == tmp_path / "test" / "data" / "train"


def test_defaults_lie_in_the_run_and_in_data_prepared(tiny_config, tmp_path):
    config = replace_fields(tiny_config, {"logging.dir": None, "data.training_corpus": None})

    paths = ExperimentPaths(config, str(tmp_path))

    assert paths.logs == paths.run / "logs"
    assert paths.prepared == tmp_path / "data" / "prepared"


def test_absolute_paths_and_the_home_directory_stay_what_they_are(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    paths = ExperimentPaths(replace_fields(tiny_config, {"training.output_dir": "/scratch/run"}), tmp_path)

    assert paths.run == Path("/scratch/run")
    assert paths.resolve("~/corpus") == tmp_path / "home" / "corpus"
