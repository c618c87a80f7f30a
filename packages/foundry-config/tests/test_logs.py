"""Messages on the console and in files, by experiment and by rank."""

import io
import logging
import re

import pytest

from foundry_config import configure_logging, list_log_files
from foundry_config.logs import PACKAGES, ConsoleHandler


@pytest.fixture(autouse=True)
def no_handlers_left():
    """Give every logger back as it was."""
    before = {name: logging.getLogger(name).handlers[:] for name in (*PACKAGES, "foundry")}
    yield
    for name, handlers in before.items():
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()


def test_the_logger_of_an_experiment_has_its_name():
    assert configure_logging("tiny", console=None).name == "foundry.tiny"


def test_the_log_file_lies_in_the_folder_and_holds_the_messages(tmp_path):
    logger = configure_logging("tiny", log_dir=tmp_path / "logs", console=None)

    logger.info("8 sequences x 128 tokens")
    logging.getLogger("foundry_train.loop").warning("slow disk")

    text = (tmp_path / "logs" / "tiny.log").read_text()
    assert "INFO foundry.tiny: 8 sequences x 128 tokens\n" in text
    assert "WARNING foundry_train.loop: slow disk\n" in text


def test_times_are_iso_8601_with_milliseconds_and_offset(tmp_path):
    configure_logging("tiny", log_dir=tmp_path, console=None).info("now")

    line = (tmp_path / "tiny.log").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d INFO foundry\.tiny: now\n", line)


def test_loggers_of_experiments_do_not_interfere(tmp_path):
    first = configure_logging("tiny", log_dir=tmp_path, console=None)
    second = configure_logging("tiny.v2", log_dir=tmp_path, console=None)

    first.info("for the first")
    second.info("for the second")
    logging.getLogger("foundry_data").info("for the last one configured")

    assert (tmp_path / "tiny.log").read_text().count("\n") == 1
    assert "for the first" in (tmp_path / "tiny.log").read_text()
    text = (tmp_path / "tiny.v2.log").read_text()
    assert "for the second" in text
    assert "for the last one configured" in text
    assert "for the first" not in text


def test_configuring_twice_writes_every_message_once(tmp_path):
    stream = io.StringIO()
    for _ in range(2):
        logger = configure_logging("tiny", log_dir=tmp_path, console=stream)

    logger.info("once")

    assert stream.getvalue().count("once") == 1
    assert (tmp_path / "tiny.log").read_text().count("once") == 1


def test_the_level_decides_what_is_taken(tmp_path):
    stream = io.StringIO()
    logger = configure_logging("tiny", log_dir=tmp_path, level="WARNING", console=stream)

    logger.info("quiet")
    logger.warning("loud")

    assert "quiet" not in stream.getvalue() + (tmp_path / "tiny.log").read_text()
    assert "loud" in stream.getvalue()


def test_ranks_above_zero_show_only_warnings_and_have_files_of_their_own(tmp_path):
    stream = io.StringIO()
    logger = configure_logging("tiny", log_dir=tmp_path, rank=3, console=stream)

    logger.info("detail")
    logger.warning("trouble")

    assert "detail" not in stream.getvalue()
    assert "trouble" in stream.getvalue()
    assert "detail" in (tmp_path / "tiny.rank3.log").read_text()


def test_the_console_is_standard_error_as_it_is_at_the_time(capsys):
    configure_logging("tiny").info("hello")

    assert "hello" in capsys.readouterr().err


def test_a_ready_handler_can_be_the_console():
    stream = io.StringIO()
    handler = ConsoleHandler(stream)

    configure_logging("tiny", console=handler, rank=1).info("detail")

    assert handler.level == logging.WARNING
    assert stream.getvalue() == ""


def test_control_characters_are_written_as_escapes_and_line_breaks_stay(tmp_path):
    configure_logging("tiny", log_dir=tmp_path, console=None).info("a\x1b[2J\tb\nc")

    text = (tmp_path / "tiny.log").read_text()
    assert "a\\x1b[2J    b\nc\n" in text
    assert "\x1b" not in text


def test_a_broken_console_or_disk_never_stops_what_is_logged(tmp_path):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    logger = configure_logging("tiny", log_dir=tmp_path, console=Closed())

    logger.info("still running")

    assert "still running" in (tmp_path / "tiny.log").read_text()


def test_a_link_in_place_of_the_log_file_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("untouched")
    (tmp_path / "tiny.log").symlink_to(target)

    with pytest.raises(OSError, match=r"tiny\.log|symbolic link"):
        configure_logging("tiny", log_dir=tmp_path, console=None)

    assert target.read_text() == "untouched"


def test_messages_still_reach_handlers_of_the_root_logger(caplog):
    configure_logging("tiny", console=None).info("seen by the host program")

    assert "seen by the host program" in caplog.text


def test_log_files_are_listed_by_experiment(tmp_path):
    for name in ("a.log", "a.rank1.log", "a.b.log", "b.log", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.log").mkdir()

    assert [path.name for path in list_log_files(tmp_path)] == ["a.b.log", "a.log", "a.rank1.log", "b.log"]
    assert [path.name for path in list_log_files(tmp_path, "a")] == ["a.log", "a.rank1.log"]
    assert list_log_files(tmp_path / "missing") == []
