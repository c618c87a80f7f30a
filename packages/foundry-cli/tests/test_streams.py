"""Output whose reader has gone."""

import os
import subprocess
import sys
from pathlib import Path

from foundry_cli.console import say_json
from foundry_cli.streams import SurvivingStream, surviving_streams

PRINTING = """
import os, subprocess
from foundry_cli.console import say_json
from foundry_cli.streams import surviving_streams
with surviving_streams(apart=True):
    print("printed")
    os.write(1, b"written\\n")
    subprocess.run(["echo", "from a child"], check=True)
    say_json({"loss": 3.5})
print("afterwards")
"""


def test_writing_to_a_pipe_without_a_reader_is_survived():
    reader, writer = os.pipe()
    os.close(reader)

    with os.fdopen(writer, "w") as pipe:
        stream = SurvivingStream(pipe)
        for _ in range(3):
            stream.write("nobody reads this\n")
            stream.flush()


def test_output_that_found_no_room_is_told_of(monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with surviving_streams() as lost:
            print("text", flush=True)

            assert lost() == "No space left on device"


def test_a_reader_that_left_wanted_no_more(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)

    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with surviving_streams() as lost:
            print("text", flush=True)

            assert lost() == ""


def test_writing_to_a_closed_file_is_survived(tmp_path):
    file = (tmp_path / "out").open("w")
    file.close()

    stream = SurvivingStream(file)

    assert stream.write("text") == 4
    stream.flush()


def test_characters_that_the_terminal_cannot_show_are_replaced(tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        SurvivingStream(file).write("loss ↓ 3")

    assert (tmp_path / "out").read_text() == "loss ? 3"


def test_the_streams_of_the_process_are_restored_afterwards():
    before = sys.stdout, sys.stderr

    with surviving_streams():
        assert isinstance(sys.stdout, SurvivingStream)

    assert (sys.stdout, sys.stderr) == before


def test_attributes_come_from_the_stream_itself(capsys):
    with surviving_streams():
        assert sys.stdout.encoding.lower() == "utf-8"
        assert not sys.stdout.isatty()


def test_standard_output_can_be_kept_for_the_results():
    done = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, text=True, check=True)

    assert done.stdout == '{\n  "loss": 3.5\n}\nafterwards\n'
    assert sorted(done.stderr.splitlines()) == ["from a child", "printed", "written"]


def test_results_kept_apart_that_find_no_room_are_told_of(monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with surviving_streams(apart=True) as lost:
            say_json({"loss": 3.5})

            assert lost() == "No space left on device"


def test_a_stream_without_a_descriptor_needs_no_parting(capsys):
    with surviving_streams(apart=True):
        say_json([1])

    assert capsys.readouterr().out == "[\n  1\n]\n"
