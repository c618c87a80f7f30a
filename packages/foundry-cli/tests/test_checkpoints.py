"""`foundry checkpoints`, and finding what a RUN or MODEL names."""

import json
import shutil
from pathlib import Path

import pytest

from foundry_cli.targets import find_checkpoint, find_model, find_run, read_model
from foundry_config import CheckpointError, ConfigError
from foundry_train.checkpoint_list import file_problems


def test_checkpoints_are_listed_in_order_with_what_a_person_asks_for(foundry, run_folder):
    lines = foundry("checkpoints", run_folder).out.splitlines()

    assert [line.split()[0] for line in lines[1:-1]] == ["10", "16", "20", "30"]
    assert "chck_1M" in lines[2]
    assert "for ever" in lines[2]
    assert "30k" in lines[4]  # tokens
    assert lines[-1].startswith("4 checkpoints")


def test_checkpoints_as_json_have_exact_numbers(foundry, run_folder):
    rows = json.loads(foundry("checkpoints", run_folder, "--json").out)

    assert rows[1]["label"] == "chck_1M"
    assert [row["tokens"] for row in rows] == [10_000, 16_000, 20_000, 30_000]
    assert {row["state"] for row in rows} == {"complete"}


def test_a_flipped_byte_is_seen_with_check_only(foundry, run_folder):
    weights = run_folder / "checkpoints" / "step-00000020" / "model.safetensors"
    weights.write_bytes(b"W" + weights.read_bytes()[1:])

    states = [row["state"] for row in json.loads(foundry("checkpoints", run_folder, "--json", "--check").out)]

    assert states[0] == states[1] == states[3] == "sound"
    assert "model.safetensors is damaged" in states[2]
    assert foundry("checkpoints", run_folder).out.count("complete") == 4


def test_a_checkpoint_that_retention_removes_while_it_is_hashed_is_not_damaged(foundry, run_folder, monkeypatch):
    def problems(folder, manifest):
        if folder.name == "step-00000010":
            shutil.rmtree(folder)
        return file_problems(folder, manifest)

    monkeypatch.setattr("foundry_train.checkpoint_list.file_problems", problems)

    rows = json.loads(foundry("checkpoints", run_folder, "--json", "--check").out)

    assert [row["state"] for row in rows] == ["removed meanwhile", "sound", "sound", "sound"]


def test_a_missing_file_is_seen_at_once(foundry, run_folder):
    (run_folder / "checkpoints" / "step-00000030" / "model.safetensors").unlink()

    assert "model.safetensors is missing" in foundry("checkpoints", run_folder).out


def test_prune_leaves_the_newest_and_every_milestone(foundry, run_folder):
    answer = foundry("checkpoints", run_folder, "--prune")

    left = sorted(path.name for path in (run_folder / "checkpoints").iterdir())
    assert answer.code == 0
    assert left == ["step-00000016", "step-00000030"]


def test_a_dry_run_names_the_same_and_removes_nothing(foundry, run_folder):
    answer = foundry("checkpoints", run_folder, "--prune", "--dry-run", "--keep", 2)

    assert answer.out.count("would remove") == 1
    assert answer.out.splitlines()[-1].startswith("1 checkpoint, ")
    assert len(list((run_folder / "checkpoints").iterdir())) == 4


def test_what_is_pruned_is_told_as_json(foundry, run_folder):
    tried = json.loads(foundry("checkpoints", run_folder, "--prune", "--dry-run", "--json").out)
    done = json.loads(foundry("checkpoints", run_folder, "--prune", "--json").out)

    assert [row["step"] for row in tried] == [row["step"] for row in done] != []
    assert not any(row["removed"] for row in tried) and all(row["removed"] for row in done)
    assert not any(Path(row["path"]).exists() for row in done)


def test_a_dry_run_of_nothing_is_refused(foundry, run_folder):
    assert foundry("checkpoints", run_folder, "--dry-run").code == 2


def test_find_checkpoint_takes_the_newest_sound_one_a_step_or_a_label(run_folder):
    (run_folder / "checkpoints" / "step-00000030" / "model.safetensors").unlink()

    assert find_checkpoint(run_folder, "latest").step == 20
    assert find_checkpoint(run_folder, "10").step == 10
    assert find_checkpoint(run_folder, "chck_1M").step == 16


@pytest.mark.parametrize(("which", "words"), [("30", "missing"), ("11", "10, chck_1M, 20, 30"), ("chck_2M", "chck_2M")])
def test_find_checkpoint_says_what_is_wrong_and_what_there_is(run_folder, which, words):
    (run_folder / "checkpoints" / "step-00000030" / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match=words):
        find_checkpoint(run_folder, which)


def test_a_run_without_checkpoints_is_said_to_have_none(tmp_path):
    (tmp_path / "checkpoints").mkdir()

    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path, "latest")


def test_a_run_is_found_by_its_folder_a_checkpoint_or_its_config(run_folder, tmp_path, monkeypatch):
    from foundry_cli.commands.init import starter_text

    config = tmp_path / "my.yaml"
    config.write_text(starter_text(corpus="x", name="small", schema="s.json"))

    assert find_run(run_folder) == run_folder
    assert find_run(run_folder / "checkpoints" / "step-00000010") == run_folder
    assert find_run(config) == run_folder


def test_a_plain_model_folder_is_a_model_but_has_no_checkpoints(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    assert find_model(tmp_path, "latest") == tmp_path
    with pytest.raises(ConfigError, match="--checkpoint 10"):
        find_model(tmp_path, "10")


def test_a_model_of_a_run_is_its_newest_checkpoint_unless_one_is_named(run_folder):
    assert find_model(run_folder, "latest").name == "step-00000030"
    assert find_model(run_folder, "chck_1M").name == "step-00000016"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("nowhere", CheckpointError, "does not exist"),
        ("no.yaml", ConfigError, "no.yaml"),
        (".", CheckpointError, "no run"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, name, kind, words):
    with pytest.raises(kind, match=words):
        find_run(tmp_path / name)


def test_a_checkpoint_folder_that_does_not_exist_is_not_taken_for_the_newest_one(run_folder):
    with pytest.raises(CheckpointError, match=r"step-00000040 does not exist; `foundry checkpoints .* lists what does"):
        find_model(run_folder / "checkpoints" / "step-00000040", "latest")
    assert find_model(run_folder / "checkpoints" / "step-00000010", "latest").name == "step-00000010"


def read_after_removal(folders):
    """A reader of a checkpoint that retention removes when it is read first."""

    def read(folder):
        folders.append(folder.name)
        if len(folders) == 1:
            shutil.rmtree(folder)
        return len((folder / "MANIFEST.json").read_bytes())

    return read


def test_a_model_that_is_removed_while_it_is_read_is_the_latest_by_then(run_folder):
    folders: list[str] = []

    read_model(run_folder, "latest", read_after_removal(folders))

    assert folders == ["step-00000030", "step-00000020"]


def test_the_link_to_the_latest_checkpoint_is_looked_at_again(run_folder):
    link, folders = run_folder / "latest", []
    for step in (10, 20):
        (run_folder / f"checkpoints/step-{step:08d}/config.json").write_text("{}")
    link.symlink_to("checkpoints/step-00000010")
    read = read_after_removal(folders)

    def read_while_the_run_saves(folder):
        link.unlink()
        link.symlink_to("checkpoints/step-00000020")
        return read(folder)

    read_model(link, "latest", read_while_the_run_saves)

    assert folders == ["step-00000010", "step-00000020"]


@pytest.mark.parametrize(
    ("arguments", "exported"), [(["latest"], [30, 20]), (["20"], [20]), (["checkpoints/step-00000010"], [10])]
)
def test_export_chooses_again_what_is_removed_meanwhile_unless_it_was_named(
    foundry, run_folder, monkeypatch, arguments, exported
):
    (run_folder / "checkpoints/step-00000010/config.json").write_text("{}")
    folders: list[str] = []
    read = read_after_removal(folders)
    monkeypatch.setattr("foundry_train.export.export_checked", lambda folder, to: read(folder))
    name = arguments[0]
    named = [run_folder / name] if "/" in name else [run_folder, "--checkpoint", name]

    answer = foundry("export", *named, "--to", "model")

    assert folders == [f"step-{step:08d}" for step in exported]
    assert answer.code == (0 if name == "latest" else 4)
    assert name == "latest" or "was removed while it was read" in answer.err


@pytest.mark.parametrize("named", [True, False])
def test_a_model_that_was_named_and_is_removed_while_it_is_read_is_said_to_be_removed(run_folder, named):
    folder = run_folder / "checkpoints" / "step-00000010"
    (folder / "config.json").write_text("{}")
    target, which = (run_folder, "10") if named else (folder, "latest")

    with pytest.raises(CheckpointError, match="step-00000010 was removed while it was read"):
        read_model(target, which, read_after_removal([]))
