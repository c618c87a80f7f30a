"""`foundry info`: this machine, and a run."""

import json

import pytest

from foundry_cli.run_overview import state_of


@pytest.mark.slow
def test_info_names_versions_and_devices(foundry):
    facts = json.loads(foundry("info", "--json").out)

    assert facts["packages"]["foundry-cli"]
    assert facts["packages"]["torch"]
    assert any(device.startswith("cpu") for device in facts["devices"])
    assert "This machine" in foundry("info").out


def test_info_of_a_run_is_all_that_its_files_say(foundry, run_folder):
    (run_folder / "status.json").write_text('{"phase":"done","step":30}')

    facts = json.loads(foundry("info", run_folder, "--json").out)

    assert facts["status"] == {"phase": "done", "step": 30}
    assert facts["checkpoints"] == ["10", "chck_1M", "20", "30"]
    assert "done, at step 30" in foundry("info", run_folder).out


def test_info_for_a_person_is_short(foundry, run_folder):
    (run_folder / "status.json").write_text('{"phase":"stopped","exit_reason":"SIGINT","step":7}')
    (run_folder / "plan.json").write_text('{"total_steps":1000}')
    (run_folder / "run.json").write_text(
        '{"created":"2026-01-01","config":"sha256:0123456789abcdef","data":"sha256:ff"}'
    )
    (run_folder / "config.json").write_text(
        '{"experiment_name":"a","random_seed":3,"model":{"architecture":"llama"},"data":{"source_corpus":"x.txt"}}'
    )
    (run_folder / "metrics.jsonl").write_text('{"kind":"step","step":7,"loss":2.5,"tokens":1024,"words":700}\n')
    (run_folder / "environment.json").write_text(
        '{"python":"3.11.7 (main)","packages":{"torch":"2.15","attrs":"1"},"hardware":{"cpu":"Some CPU"},'
        '"git":{"commit":"0123456789abcdef","dirty":true},"command":["foundry","train"]}'
    )

    shown = dict(line.strip().split("  ", 1) for line in foundry("info", run_folder).out.splitlines()[1:-1])

    assert {name: value.strip() for name, value in shown.items()} == {
        "folder": str(run_folder),
        "state": "stopped by SIGINT at step 7 of 1,000; run it again to go on",
        "experiment": "a: llama on x.txt, seed 3",
        "created": "2026-01-01",
        "last step": "7: loss 2.5000, 1,024 tokens, 700 words",
        "checkpoints": "4: 10, chck_1M, 20, 30",
        "digests": "config 0123456789ab, data ff",
        "made with": "python 3.11.7, torch 2.15, Some CPU",
        "git": "0123456789ab, with changes that are not committed",
        "command": "foundry train",
    }


@pytest.mark.parametrize(
    ("status", "trainer", "words"),
    [
        ({"phase": "done", "step": 5}, None, "done, at step 5"),
        ({"phase": "failed", "exit_reason": "DataError: no text"}, None, "failed at the start: DataError: no text"),
        (
            {"phase": "training", "step": 5},
            {"pid": 12, "host": "here"},
            "training now, at step 5, by process 12 on here",
        ),
        ({"phase": "training", "step": 5}, None, "ended without saying why, at step 5"),
        ({}, None, ""),
        ("status.json is damaged: x", None, ""),
    ],
)
def test_the_state_of_a_run_is_a_sentence(status, trainer, words):
    assert state_of({"status": status, "trainer": trainer}).startswith(words)


def test_a_run_that_failed_before_it_began_has_an_info_too(foundry, tmp_path):
    (tmp_path / "status.json").write_text('{"phase":"failed","exit_reason":"DataError: there is no corpus"}')

    answer = foundry("info", tmp_path)

    assert answer.code == 0
    assert "failed at the start: DataError: there is no corpus" in answer.out


def test_info_of_a_run_with_a_damaged_file_says_so(foundry, run_folder):
    (run_folder / "status.json").write_text('{"phase"')

    answer = foundry("info", run_folder)

    assert answer.code == 0
    assert "is damaged" in answer.out
