"""Processes that work side by side and answer in order."""

import faulthandler
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config.errors import DataError, WorkerError
from foundry_data.ordered_workers import available_cores, ordered_map

pytestmark = pytest.mark.slow


def run(function, items, *, workers=2, **options):
    return ordered_map(function, items, num_workers=workers, item_type=int, result_type=int, name="doubling", **options)


def process_is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = f"/proc/{pid}/stat"
    try:
        with open(status) as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        os.sched_yield()
    return condition()


@settings(max_examples=12)
@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 4))
def test_results_come_in_the_order_of_the_items_for_any_number_of_workers(items, workers):
    assert list(run(lambda item: item * 2, items, workers=workers)) == [item * 2 for item in items]


def test_a_slow_item_does_not_overtake_or_get_overtaken():
    def uneven(item):
        for _ in range(100_000 if item == 0 else 1):
            pass
        return item

    assert list(run(uneven, range(30), workers=3)) == list(range(30))


def test_only_a_few_items_are_taken_ahead():
    taken = []

    def items():
        for item in range(1000):
            taken.append(item)
            yield item

    results = run(lambda item: item, items())
    next(results)
    results.close()

    assert len(taken) < 20


def test_zero_workers_means_one_per_core():
    assert list(run(lambda item: item, range(3), workers=0)) == [0, 1, 2]
    assert available_cores() >= 1


def test_one_worker_is_this_process():
    assert list(run(lambda _: os.getpid(), [1], workers=1)) == [os.getpid()]
    assert list(run(lambda _: os.getpid(), [1], workers=2)) != [os.getpid()]


def test_an_error_that_a_user_can_cause_keeps_its_class_and_message():
    def refuse(item):
        raise DataError(f"item {item} is bad")

    with pytest.raises(DataError, match=r"^item 7 is bad\n") as caught:
        list(run(refuse, [7]))

    assert str(caught.value) == "item 7 is bad"
    assert "in refuse" in caught.value.__notes__[0]


def test_any_other_error_names_the_work_and_carries_the_traceback():
    def fail(_):
        raise KeyError("missing")

    with pytest.raises(WorkerError, match="doubling: a worker failed with KeyError: 'missing'") as caught:
        list(run(fail, [1]))

    assert "in fail" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, r"\(SIGKILL\); if the memory was full, set data\.num_workers lower"),
        (signal.SIGBUS, r"\(SIGBUS\)"),
        (signal.SIGRTMIN + 1, r"\(a real-time signal\)"),
    ],
)
def test_a_killed_worker_is_named_with_the_work_the_item_and_the_signal(number, said):
    def die(item):
        if item == 3:
            faulthandler.disable()  # pytest's, which would fill the screen
            os.kill(os.getpid(), number)
        return item

    with pytest.raises(
        WorkerError, match=rf"^doubling, item 3: worker process \d+ was killed by signal {int(number)} {said}$"
    ):
        list(run(die, range(10), describe=lambda item: f"item {item}"))


def test_a_worker_that_ends_by_itself_is_named_with_its_status():
    with pytest.raises(WorkerError, match="ended with status 3"):
        list(run(lambda _: os._exit(3), [1]))


def test_a_worker_killed_while_idle_is_noticed_at_the_next_item():
    results = run(lambda _: os.getpid(), range(100))
    pid = next(results)
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: process_is_gone(pid))

    with pytest.raises(WorkerError, match=rf"worker process {pid} was killed by signal 9"):
        list(results)


def test_workers_end_when_the_caller_stops_early():
    results = run(lambda _: os.getpid(), range(100))
    pid = next(results)

    results.close()

    assert wait_until(lambda: process_is_gone(pid))


def test_workers_do_not_react_to_the_signals_of_the_caller():
    received = []
    before = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    try:
        handlers = list(
            run(lambda number: int(signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN)), [10, 2, 15])
        )
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert handlers == [1, 1, 1]


def test_workers_and_their_programs_end_when_the_caller_is_killed(tmp_path):
    program = f"""
import os, subprocess
from foundry_data.transforms import parse_steps
from foundry_data.documents import Document
from foundry_data.transform_runner import run_manipulation
from pathlib import Path
steps = [{{"command": ["sh", "-c", "echo $$ $PPID >> {tmp_path}/pids; sleep 600"], "timeout_seconds": 900}}]
documents = [Document(str(n) * 2**20) for n in range(4)]
list(run_manipulation(documents, steps, seed=0, num_workers=2, receipts_dir=Path({str(tmp_path)!r})))
"""
    caller = subprocess.Popen([sys.executable, "-c", program])
    listed = tmp_path / "pids"
    assert wait_until(lambda: listed.exists() and len(listed.read_text().split()) == 4)

    caller.kill()
    caller.wait()

    pids = [int(pid) for pid in listed.read_text().split()]
    assert wait_until(lambda: all(process_is_gone(pid) for pid in pids))
