"""`foundry init`, `validate` and `schema`."""

import json
from pathlib import Path

import pytest

from foundry_config import load_config


def test_init_writes_a_config_that_is_valid_and_says_what_to_do(foundry):
    answer = foundry("init", "my.yaml", "--name", "first", "--corpus", "texts/*.txt")

    config = load_config("my.yaml")
    assert answer.code == 0
    assert (config.experiment_name, config.data.source_corpus) == ("first", "texts/*.txt")
    assert config.training.output_dir == "runs/first"
    assert "foundry train my.yaml" in answer.out


def test_init_quotes_a_name_that_a_shell_would_take_apart(foundry):
    assert "foundry train 'my config.yaml' " in foundry("init", "my config.yaml").out


def test_init_writes_the_schema_that_its_config_names(foundry):
    foundry("init", "my.yaml")

    first_line = Path("my.yaml").read_text().splitlines()[0]
    assert first_line == "# yaml-language-server: $schema=my.schema.json"
    assert "properties" in json.loads(Path("my.schema.json").read_text())


@pytest.mark.parametrize("corpus", ["null", "True", "1e3", "a:b:", 'a"b', "a: b # c", "{x}", "no", "ä/ö.txt", "\\n"])
def test_init_keeps_any_corpus_as_it_was_typed(foundry, corpus):
    assert foundry("init", "my.yaml", "--corpus", corpus).code == 0

    assert load_config("my.yaml").data.source_corpus == corpus


def test_init_replaces_nothing_unless_told_to(foundry):
    Path("foundry.yaml").write_text("mine")

    assert foundry("init").code == 2
    assert Path("foundry.yaml").read_text() == "mine"
    assert not Path("foundry.schema.json").exists()
    assert foundry("init", "--force").code == 0


@pytest.mark.parametrize("name", ["../x", "a b", "-x", ""])
def test_init_refuses_a_name_that_is_no_file_name_and_writes_nothing(foundry, name):
    answer = foundry("init", f"--name={name}")

    assert answer.code == 2
    assert not Path("foundry.yaml").exists()


def test_init_says_when_it_cannot_write(foundry):
    Path("file").write_text("")

    answer = foundry("init", "file/foundry.yaml")

    assert answer.code == 7
    assert "file/foundry" in answer.err


def test_validate_accepts_overrides_and_names_all_problems(foundry):
    foundry("init")

    good = foundry("validate", "--set", "training.learning_rate=1e-4")
    bad = foundry("validate", "-s", "model.layers=-1", "-s", "data.batchsize=1")

    assert (good.code, bad.code) == (0, 2)
    assert "2 problems" in bad.err


def test_a_missing_config_is_answered_with_what_was_probably_meant(foundry, tmp_path, monkeypatch):
    assert "`foundry init foundry.yaml`" in foundry("validate").err
    foundry("init", "my.yaml")
    assert "Did you mean my.yaml?" in foundry("validate", "my.yml").err
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert "there is one in a folder above: ../../my.yaml" in foundry("validate", "my.yaml").err
    assert "Did you mean" not in foundry("validate", "other.yaml").err


def test_schema_is_json_and_nothing_else(foundry):
    answer = foundry("schema")

    assert "experiment_name" in json.loads(answer.out)["properties"]
    assert answer.err == ""
