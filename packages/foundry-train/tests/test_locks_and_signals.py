"""One trainer per run, whatever dies; and a signal that asks before it insists."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundry_config.errors import RunLockedError
from foundry_train.lock import RunLock, holder, living_holder
from foundry_train.signals import REPEAT_SECONDS, STOPPING, Stopped, StopSignals, exit_code_of

HOLD = """
import os, sys
from pathlib import Path
from foundry_train.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
if len(sys.argv) > 2 and os.fork() == 0:  # a data worker that outlives its trainer
    print("worker", flush=True)
    sys.stdin.readline()
    os._exit(0)
print("held", flush=True)
sys.stdin.readline()
"""


def hold(run: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(run), *more]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], lines: int) -> None:
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline()


def test_the_holder_of_a_lock_lives_as_long_as_its_process_and_boot(tmp_path: Path) -> None:
    with_lock = RunLock(tmp_path)
    info = holder(tmp_path)

    assert living_holder(tmp_path) == info

    for change in ({"start": (info["start"] or 0) + 1}, {"boot_id": "another"}, {"pid": None}):
        (tmp_path / "lock.info").write_text(json.dumps(info | change))
        assert living_holder(tmp_path) is None
    (tmp_path / "lock.info").write_text(json.dumps(info | {"host": "elsewhere", "pid": 1}))
    assert living_holder(tmp_path) == info | {"host": "elsewhere", "pid": 1}
    with_lock.release()


@pytest.mark.slow
def test_a_second_trainer_is_refused_within_a_second_by_name_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    first = hold(tmp_path, "with a worker")
    try:
        wait_for(first, 2)
        started = time.monotonic()

        with pytest.raises(RunLockedError, match=rf"process {first.pid} on ") as raised:
            RunLock(tmp_path)

        assert time.monotonic() - started < 1
        assert raised.value.exit_code == 6
        first.kill()
        first.wait()
        RunLock(tmp_path).release()  # although the worker still lives
    finally:
        first.kill()
        first.communicate()  # closes the pipe that the worker waits on


def test_the_lock_can_be_taken_again_after_it_was_given_back(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with pytest.raises(RunLockedError, match="in this process"):
        RunLock(tmp_path)
    lock.release()
    lock.release()

    again = RunLock(tmp_path)

    assert holder(tmp_path)["pid"] == os.getpid()
    again.release()


def test_a_lock_info_that_says_nothing_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert holder(tmp_path) == {}
    for content in ("", "[]", "{"):
        (tmp_path / "lock.info").write_text(content)
        assert holder(tmp_path) == {}
    (tmp_path / "lock.info").write_text(json.dumps({"pid": 1}))
    assert holder(tmp_path) == {"pid": 1}


def test_a_lock_file_that_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "canary")

    with pytest.raises(OSError):
        RunLock(tmp_path)

    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_outside_the_loop_stops_at_once_with_its_code(number: signal.Signals) -> None:
    with pytest.raises(Stopped) as raised, StopSignals():
        os.kill(os.getpid(), number)

    assert raised.value.exit_code == exit_code_of(number) == 128 + number
    assert number.name in str(raised.value)


def test_a_deferred_signal_only_asks_until_it_is_checked() -> None:
    with StopSignals() as signals:
        signals.check()
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGUSR1)

            assert signals.requested == signal.SIGUSR1
            with pytest.raises(Stopped, match="SIGUSR1"):
                signals.check()


@pytest.mark.parametrize(
    ("second", "after", "code"),
    [
        (signal.SIGTERM, REPEAT_SECONDS * 0.9, None),
        (signal.SIGTERM, REPEAT_SECONDS * 1.1, 143),
        (signal.SIGINT, 0.1, 130),
    ],
)
def test_a_signal_that_a_launcher_passes_on_is_no_insistence_a_later_or_another_one_is(
    second: signal.Signals, after: float, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []
    monkeypatch.setattr("foundry_train.signals.os._exit", exits.append)
    now = [0.0]

    with StopSignals(clock=lambda: now[0]) as signals, signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] = after
        os.kill(os.getpid(), second)

        assert signals.requested == signal.SIGTERM
    assert exits == ([] if code is None else [code])


def test_a_repeated_signal_outside_the_loop_lets_the_first_one_end_the_run() -> None:
    with pytest.raises(Stopped, match="SIGTERM"), StopSignals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # while what was open is being closed


def test_a_signal_takes_no_error_s_place_while_that_is_on_its_way() -> None:
    closed = []

    def close() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        closed.append(True)

    with pytest.raises(ZeroDivisionError), StopSignals() as signals, contextlib.ExitStack() as stack:
        stack.callback(close)
        with signals.deferred():
            1 // 0

    assert closed and signals.requested == signal.SIGTERM


def test_the_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in STOPPING]

    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) not in before

    assert [signal.getsignal(number) for number in STOPPING] == before


def test_a_stop_can_be_asked_for_without_a_signal_and_the_first_reason_counts() -> None:
    signals = StopSignals()

    signals.request()
    signals.request(signal.SIGINT)

    assert signals.requested == signal.SIGTERM


def test_work_in_a_thread_gives_its_result_or_its_error() -> None:
    with StopSignals() as signals:
        assert signals.run_in_thread(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            signals.run_in_thread(lambda: 1 // 0)


def test_a_signal_ends_the_wait_for_work_that_does_not_end() -> None:
    import threading

    release = threading.Event()

    def endless() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        release.wait()

    with pytest.raises(Stopped), StopSignals() as signals:
        signals.run_in_thread(endless)
    release.set()


def test_in_another_thread_nothing_is_taken_over() -> None:
    import threading

    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def body() -> None:
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()

    assert seen == [before]
