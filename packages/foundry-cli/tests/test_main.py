"""Failures become one message and an exit code; help and usage errors stay plain."""

import errno
import io
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from foundry_cli import main
from foundry_cli.main import make_app
from foundry_config import errors

EXIT_CODES = {
    errors.ConfigError: 2,
    errors.DataError: 3,
    errors.CheckpointError: 4,
    errors.ResumeMismatchError: 5,
    errors.RunLockedError: 6,
    errors.StorageError: 7,
    errors.NonFiniteError: 8,
    errors.MemoryExhaustedError: 9,
    errors.WorkerError: 10,
}


@pytest.fixture
def failing(foundry, monkeypatch):
    """Run a command that raises what it is given."""

    def call(error: BaseException, *arguments: str):
        def fail() -> None:
            raise error

        def other() -> None:
            """Make the application one with several commands."""

        monkeypatch.setattr(main, "app", make_app({"Test": [("fail", fail), ("other", other)]}))
        return foundry("fail", *arguments)

    return call


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_an_error_of_a_user_is_one_message_and_its_exit_code(failing, kind, code):
    answer = failing(kind("corpus 'x' is gone; put it back"))

    assert answer.code == code
    assert answer.err == "error: corpus 'x' is gone; put it back\n"


def test_a_stop_by_a_signal_is_not_called_an_error(failing):
    from foundry_train.signals import Stopped

    answer = failing(Stopped("SIGTERM"))

    assert answer.code == 143
    assert answer.err == "stopped by SIGTERM; run the same command again to go on\n"


def test_an_interrupt_ends_with_130(failing):
    assert failing(KeyboardInterrupt()).code == 130


def test_control_characters_of_a_message_are_spelled_out(failing):
    answer = failing(errors.DataError("file '\x1b]0;owned\x07\x9b31m' is bad"))

    assert "\x1b" not in answer.err
    assert "\\x1b]0;owned\\x07\\x9b31m" in answer.err


def test_a_bug_leaves_a_crash_report_without_a_traceback_on_screen(failing, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "canary-of-a-secret")

    answer = failing(ZeroDivisionError("division by zero"))

    (report,) = tmp_path.glob("foundry-crash-*.txt")
    assert answer.code == 70
    assert "Traceback" not in answer.err
    assert str(report) in answer.err
    assert "ZeroDivisionError" in report.read_text()
    assert "canary-of-a-secret" not in report.read_text()


def test_a_bug_is_told_even_where_no_report_can_be_written(failing, monkeypatch):
    def refuse(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)

    answer = failing(RuntimeError("odd"))

    assert answer.code == 70
    assert "No space left on device" in answer.err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ENOSPC, errno.EROFS])
def test_what_the_disk_refuses_is_no_bug(failing, tmp_path, number):
    answer = failing(OSError(number, "refused by the disk", str(tmp_path / "report.html")))

    assert answer.code == 7
    assert f"{tmp_path / 'report.html'}: refused by the disk ({errno.errorcode[number]}); " in answer.err
    assert "bug" not in answer.err


def test_a_broken_pipe_of_ours_is_a_bug_like_any_other_error_of_the_system(failing, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    assert failing(OSError(errno.EIO, "Input/output error")).code == 70


def test_debug_shows_the_traceback_wherever_the_option_stands(failing):
    for arguments in (["--debug"], []):
        answer = failing(errors.DataError("bad"), *arguments)
        assert ("Traceback" in answer.err) == bool(arguments)
        assert answer.code == 3


def test_debug_after_a_bare_double_dash_is_an_argument():
    assert main._take_debug(["generate", "--", "--debug"]) == (False, ["generate", "--", "--debug"])
    assert main._take_debug(["--debug", "train", "--debug"]) == (True, ["train"])


@pytest.mark.parametrize(
    ("terminal", "no_color", "begin"), [(True, "", "\x1b[31merror: "), (True, "1", "error: "), (False, "", "error: ")]
)
def test_an_error_is_red_on_a_terminal_only(failing, monkeypatch, terminal, no_color, begin):
    monkeypatch.setattr("foundry_cli.failures.sys.stderr.isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", no_color)

    assert failing(errors.DataError("bad")).err.startswith(begin)


def test_help_lists_the_commands_by_panel(foundry):
    answer = foundry("--help")

    assert answer.code == 0
    assert answer.out.index("Begin:") < answer.out.index("Train:")
    assert "\n  train " in answer.out


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--resmue", "auto"], ["train", "a", "b"], []])
def test_a_wrong_command_line_ends_with_2(foundry, arguments):
    answer = foundry(*arguments)

    assert answer.code == 2
    assert "Traceback" not in answer.err


def test_a_mistyped_command_is_recognised(foundry):
    assert "Did you mean 'train'?" in foundry("trian").err


def test_the_version_is_that_of_the_package(foundry):
    from importlib import metadata

    answer = foundry("--version")

    assert (answer.code, answer.out) == (0, f"foundry {metadata.version('foundry-cli')}\n")


def test_the_command_exits_with_the_code(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["foundry", "--version"])

    with pytest.raises(SystemExit) as stop:
        main.main()

    assert stop.value.code == 0


CRASH = """
import os, signal
from foundry_cli import main

def crash():
    os.kill(os.getpid(), signal.SIGBUS)

main.app = main.make_app({"Test": [("crash", crash), ("other", lambda: None)]})
main.main(["crash"])
"""


@pytest.mark.slow
def test_a_command_killed_from_inside_leaves_its_stack_on_standard_error_and_the_code_of_the_signal():
    ended = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, check=False)

    assert ended.returncode == -signal.SIGBUS
    assert ended.stderr.startswith("Fatal Python error: Bus error")
    assert "in crash\n" in ended.stderr


def test_a_standard_error_that_is_no_file_or_is_closed_is_no_hindrance(monkeypatch):
    monkeypatch.setattr(main.faulthandler, "is_enabled", lambda: False)

    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "__stderr__", stream)
        main._leave_a_stack_behind()


def test_no_command_names_a_path_of_this_machine(foundry):
    assert str(Path.home()) not in foundry("--help").out
