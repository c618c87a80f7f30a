"""The log of a run: its file, its level, and the caller's own logging put back afterwards."""

import logging

import pytest

from foundry_config import config_from_dict
from foundry_train.run_logs import run_logging

OURS = logging.getLogger("foundry_train.some_module")


def config(**settings):
    model = dict.fromkeys(("embedding_size", "hidden_size", "intermediate_hidden_size"), 8)
    return config_from_dict(
        {
            "experiment_name": "study",
            "data": {"source_corpus": "none", "batch_size": 1, "max_sequence_length": 8},
            "tokenizer": {"vocab_size": 300},
            "model": {"layers": 1, "attention_heads": 1, **model},
            "training": {"output_dir": "run", "learning_rate": 1e-3},
            "logging": settings,
        }
    )


@pytest.mark.parametrize(("level", "expected"), [("DEBUG", 3), ("INFO", 2), ("ERROR", 0)])
def test_the_log_file_takes_the_level_of_the_config(tmp_path, level, expected):
    with run_logging(config(level=level), tmp_path / "logs", rank=0, console=None):
        OURS.debug("fine")
        OURS.info("usual")
        OURS.warning("strange")
    OURS.warning("after the run")

    lines = (tmp_path / "logs" / "study.log").read_text().splitlines()
    assert len(lines) == expected and not any("after the run" in line for line in lines)


def test_ranks_have_files_of_their_own(tmp_path):
    with run_logging(config(), tmp_path, rank=1, console=None):
        OURS.info("here")

    assert "here" in (tmp_path / "study.rank1.log").read_text()


def test_a_folder_that_cannot_be_made_is_warned_about_and_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("")

    with run_logging(config(), tmp_path / "file" / "logs", rank=0, console=None):
        OURS.info("goes on")

    assert "no log file is written" in caplog.text and "goes on" in caplog.text


def test_handlers_of_the_caller_see_the_run_and_are_left_as_they_were(tmp_path):
    seen = []
    own = logging.Handler()
    own.emit = lambda record: seen.append(record.getMessage())
    package = logging.getLogger("foundry_train")
    before = (package.level, [*package.handlers, own])
    package.addHandler(own)
    try:
        with run_logging(config(), tmp_path, rank=0, console=None):
            OURS.info("seen")
        assert seen == ["seen"] and (package.level, package.handlers) == before
    finally:
        package.removeHandler(own)


def test_a_console_handler_of_the_caller_gets_what_the_level_lets_through(tmp_path):
    seen = []
    console = logging.Handler()
    console.emit = lambda record: seen.append(record.getMessage())

    with run_logging(config(level="WARNING"), tmp_path, rank=0, console=console):
        OURS.info("usual")
        OURS.warning("strange")

    assert seen == ["strange"]


def test_standard_error_is_used_unless_the_program_shows_messages_itself(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with run_logging(config(), tmp_path, rank=0, console="stderr"):
        OURS.info("alone")
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    with run_logging(config(), tmp_path, rank=0, console="stderr"):
        OURS.info("embedded")

    shown = capsys.readouterr().err
    assert "alone" in shown and "embedded" not in shown
