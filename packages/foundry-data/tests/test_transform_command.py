"""Steps that are programs."""

import sys
import time

import pytest

from foundry_config.errors import ConfigError, DataError
from foundry_data import transform_command
from foundry_data.transform_command import find_program
from foundry_data.transforms import manipulation_fingerprint, parse_steps

pytestmark = pytest.mark.slow


def edit(text, *command, base_dir=None, **options):
    (step,) = parse_steps([{"command": list(command), **options}], seed=0, base_dir=base_dir)
    return step.transform.editor(step.context)(text)


def script(folder, name, body):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_text_goes_in_and_the_new_text_comes_out():
    assert edit("In Paris é\n", "tr", "a-z", "A-Z") == "IN PARIS é\n"


def test_arguments_are_not_seen_by_a_shell():
    assert edit("x", "printf", "%s", "$HOME; * `ls`") == "$HOME; * `ls`"


def test_a_program_that_does_not_read_its_input_is_fine():
    assert edit("x" * 10**6, "echo", "done") == "done\n"


def test_large_texts_pass_both_ways():
    assert edit("x" * 10**6, "cat") == "x" * 10**6


def test_programs_and_files_are_found_below_the_base_folder(tmp_path):
    script(tmp_path, "upper.sh", "tr a-z A-Z < words.txt")
    (tmp_path / "words.txt").write_text("from the file")

    assert edit("x", "./upper.sh", base_dir=tmp_path) == "FROM THE FILE"


def test_a_failing_program_is_named_with_its_status_and_the_end_of_its_complaint(tmp_path):
    script(tmp_path, "fail.sh", "head -c 100000 /dev/zero | tr '\\0' x >&2; printf 'no \\033[31mverbs' >&2; exit 3")

    with pytest.raises(DataError, match=r"fail\.sh ended with status 3: x+no \\x1b\[31mverbs$") as caught:
        edit("x", "./fail.sh", base_dir=tmp_path)

    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("kill -9 $$", "was killed by signal 9: it wrote nothing to its standard error"),
        ("exit 1", "ended with status 1: it wrote nothing to its standard error"),
        ("printf '\\377'", "wrote something else than UTF-8: invalid start byte at byte 0"),
    ],
)
def test_other_ways_to_fail(tmp_path, body, said):
    script(tmp_path, "program.sh", body)

    with pytest.raises(DataError, match=said):
        edit("x", "./program.sh", base_dir=tmp_path)


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path):
    script(tmp_path, "hang.sh", "sleep 600; true")
    started = time.monotonic()

    with pytest.raises(DataError, match=r"hang\.sh took longer than 0\.2 s; raise timeout_seconds"):
        edit("x", "./hang.sh", base_dir=tmp_path, timeout_seconds=0.2)

    assert time.monotonic() - started < 60


def test_a_program_that_never_stops_writing_is_ended(monkeypatch):
    monkeypatch.setattr(transform_command, "MAX_DOCUMENT_BYTES", 2**20)

    with pytest.raises(DataError, match=r"yes wrote more than 1,048,576 bytes for one document"):
        edit("x", "yes")


def test_complaints_of_any_length_are_read_and_forgotten(tmp_path):
    script(tmp_path, "noisy.sh", "head -c 3000000 /dev/zero >&2; cat")

    assert edit("x" * 10**6, "./noisy.sh", base_dir=tmp_path) == "x" * 10**6


def test_an_empty_text_is_an_empty_input():
    assert edit("", "cat") == ""


def test_a_program_that_vanished_after_the_check_is_named(tmp_path):
    path = script(tmp_path, "program.sh", "cat")
    (step,) = parse_steps([{"command": ["./program.sh"]}], seed=0, base_dir=tmp_path)
    editor = step.transform.editor(step.context)
    path.unlink()

    with pytest.raises(DataError, match=r"cannot start .*program\.sh: No such file"):
        editor("x")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["no-such-program-anywhere"], r"there is no program 'no-such-program-anywhere' on PATH"),
        (["./plain.txt"], r"there is no program './plain.txt' in .*; install it, or make the file executable"),
        ([], "length >= 1"),
        ("tr a b", "command is 'tr a b': expected `array`, got `str`"),
    ],
)
def test_a_command_that_cannot_run_is_refused_before_any_text(tmp_path, command, said):
    (tmp_path / "plain.txt").write_text("not a program")

    with pytest.raises(ConfigError, match=said):
        parse_steps([{"command": command}], seed=0, base_dir=tmp_path)


def test_the_fingerprint_follows_the_program_its_arguments_and_the_files_among_them(tmp_path):
    def fingerprint(*arguments):
        return manipulation_fingerprint([{"command": [sys.executable, *arguments]}], seed=0, base_dir=tmp_path)

    (tmp_path / "ablate.py").write_text("print(1)")
    prints = [fingerprint("ablate.py"), fingerprint("ablate.py", "--drop")]
    (tmp_path / "ablate.py").write_text("print(2)")
    prints.append(fingerprint("ablate.py"))

    assert len(set(prints)) == 3
    assert fingerprint("ablate.py") == prints[2]
    assert find_program("sh", tmp_path).name == "sh"


@pytest.mark.parametrize("edited", ["rules.sed", "ablate.py", "filters.py"])
def test_the_fingerprint_follows_files_named_after_an_equals_sign_and_what_scripts_import(tmp_path, edited):
    for name, text in {"rules.sed": "s/a/b/", "ablate.py": "import filters\n", "filters.py": "X = 1\n"}.items():
        (tmp_path / name).write_text(text)
    steps = [{"command": ["sed", "--file=rules.sed"]}, {"command": [sys.executable, "ablate.py"]}]
    before = manipulation_fingerprint(steps, seed=0, base_dir=tmp_path)
    assert manipulation_fingerprint(steps, seed=0, base_dir=tmp_path) == before

    (tmp_path / edited).write_text((tmp_path / edited).read_text() + "# edited\n")

    assert manipulation_fingerprint(steps, seed=0, base_dir=tmp_path) != before
