"""`foundry info`: this machine, and a run."""

import json

import pytest


@pytest.mark.slow
def test_info_names_versions_and_devices(foundry):
    facts = json.loads(foundry("info", "--json").out)

    assert facts["packages"]["foundry-cli"]
    assert facts["packages"]["torch"]
    assert any(device.startswith("cpu") for device in facts["devices"])
    assert "This machine" in foundry("info").out


def test_info_of_a_run_shows_its_status_and_checkpoints(foundry, run_folder):
    (run_folder / "status.json").write_text('{"phase":"training","step":30}')

    facts = json.loads(foundry("info", run_folder, "--json").out)

    assert facts["status"] == {"phase": "training", "step": 30}
    assert facts["checkpoints"] == ["10", "chck_1M", "20", "30"]
    assert "step: 30" in foundry("info", run_folder).out


def test_info_of_a_run_with_a_damaged_file_says_so(foundry, run_folder):
    (run_folder / "status.json").write_text('{"phase"')

    answer = foundry("info", run_folder)

    assert answer.code == 0
    assert "is damaged" in answer.out
