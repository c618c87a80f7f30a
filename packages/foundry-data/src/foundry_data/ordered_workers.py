"""Apply a function to a stream of items in several processes and get the results in the order of the items.

    items      0 1 2 3 4 5 ...
    workers    A:0 B:1 A:3 B:2 ...           whoever is idle takes the next item
    results    f(0) f(1) f(2) f(3) ...       always in order, so the number of workers changes nothing

Workers are forked, so the function may be anything; items and results travel as MessagePack, so nothing is unpickled.
A few items per worker are under way at any time, and no more. When the caller stops, fails or is killed, every worker
ends at once, with whatever programs it had started.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeVar

import msgspec

import foundry_config.errors as errors
from foundry_config.errors import FoundryError, WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD_PER_WORKER = 4  # finished or running items that may wait for an earlier one


class _Failure(msgspec.Struct):
    """An exception on its way from a worker."""

    kind: str
    message: str
    traceback: str


class _Task(NamedTuple):
    message: bytes
    name: str


class _Worker(NamedTuple):
    process: Any
    pipe: Connection


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_workers: int,
    item_type: Any,
    result_type: Any,
    name: str,
    describe: Callable[[Item], str] | None = None,
    on_orphaned: Callable[[], None] | None = None,
) -> Generator[Result]:
    """Yield `function(item)` for every item, in order.

    Args:
        function: Pure: what it returns depends on the item alone.
        items: Consumed lazily.
        num_workers: Processes; 1 works in this process, 0 means one per core.
        item_type: Type of an item, for `msgspec`; likewise `result_type` of a result.
        name: What is being done, for messages.
        describe: Says which item it was, for the message about a worker that died over it.
        on_orphaned: Called in a worker that has to end at once, to end what it started.

    Raises:
        FoundryError: The one that `function` raised.
        WorkerError: A worker was killed, or `function` raised something else.
    """
    count = num_workers or available_cores()
    if count == 1:
        yield from map(function, items)
        return
    encode, decode_item = msgspec.msgpack.encode, msgspec.msgpack.Decoder(item_type).decode
    decode_result = msgspec.msgpack.Decoder(result_type).decode

    def work(message: bytes) -> bytes:
        return encode(function(decode_item(message)))

    def ask(item: Item) -> _Task:
        return _Task(encode(item), name if describe is None else f"{name}, {describe(item)}")

    with _forked(work, count, on_orphaned) as workers:
        for reply in _in_order(workers, map(ask, items), name):
            yield decode_result(reply)


def _in_order(workers: list[_Worker], tasks: Iterator[_Task], name: str) -> Iterator[bytes]:
    """Hand tasks to idle workers; yield the replies in the order of the tasks."""
    idle = list(workers)
    running: dict[Connection, tuple[int, _Worker, str]] = {}
    replies: dict[int, bytes] = {}
    sent = delivered = 0
    exhausted = False
    while True:
        while idle and not exhausted and sent - delivered < AHEAD_PER_WORKER * len(workers):
            task = next(tasks, None)
            if task is None:
                exhausted = True
                break
            worker = idle.pop()
            _send(worker, task.message, name)  # one that is dead already died over nothing
            running[worker.pipe] = (sent, worker, task.name)
            sent += 1
        while delivered in replies:
            yield replies.pop(delivered)
            delivered += 1
        if not running:
            if exhausted:
                return
            continue
        for pipe in wait(list(running)):
            number, worker, doing = running.pop(pipe)  # pyright: ignore[reportArgumentType] (wait gives back what it got)
            replies[number] = _receive(worker, doing)
            idle.append(worker)


def _send(worker: _Worker, message: bytes, name: str) -> None:
    try:
        worker.pipe.send_bytes(message)
    except OSError as error:
        raise _died(worker, name) from error


def _receive(worker: _Worker, doing: str) -> bytes:
    """Return the reply of a worker, or raise what it raised."""
    try:
        succeeded = worker.pipe.recv_bytes() == b"1"
        reply = worker.pipe.recv_bytes()
    except (EOFError, OSError) as error:
        raise _died(worker, doing) from error
    if succeeded:
        return reply
    failure = msgspec.msgpack.decode(reply, type=_Failure)
    known = getattr(errors, failure.kind, None)
    if isinstance(known, type) and issubclass(known, FoundryError):
        error = known(failure.message)
    else:
        error = WorkerError(f"{doing}: a worker failed with {failure.kind}: {failure.message}")
    error.add_note(failure.traceback)
    raise error


def _died(worker: _Worker, doing: str) -> WorkerError:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    if code is None or code >= 0:
        return WorkerError(f"{doing}: worker process {worker.process.pid} ended with status {code}")
    advice = "; if the memory was full, set data.num_workers lower" if code == -signal.SIGKILL else ""
    how = f"was killed by signal {-code} ({_signal_name(-code)})"
    return WorkerError(f"{doing}: worker process {worker.process.pid} {how}{advice}")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else "a real-time signal"


@contextlib.contextmanager
def _forked(
    work: Callable[[bytes], bytes], count: int, on_orphaned: Callable[[], None] | None
) -> Generator[list[_Worker]]:
    """Start workers; on leaving, end them all, busy or not.

    Each worker watches the read end of one pipe that nobody writes to: the moment the last write end is gone, because
    the caller closed it or died, the worker ends.
    """
    context = multiprocessing.get_context("fork")
    watched, lifeline = os.pipe()
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            inherited = [lifeline, ours.fileno(), *(worker.pipe.fileno() for worker in workers)]
            process = context.Process(target=_serve, args=(work, theirs, watched, inherited, on_orphaned), daemon=True)
            with warnings.catch_warnings():
                # Python warns that a fork copies locks held by other threads; workers take none of theirs.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            workers.append(_Worker(process, ours))
        yield workers
    finally:
        os.close(lifeline)
        os.close(watched)
        for worker in workers:
            worker.pipe.close()
            worker.process.join()


def _serve(
    work: Callable[[bytes], bytes],
    pipe: Connection,
    watched: int,
    inherited: list[int],
    on_orphaned: Callable[[], None] | None,
) -> None:
    """Answer messages until the lifeline is cut."""
    for descriptor in inherited:
        os.close(descriptor)
    # The keyboard interrupts the caller, which then ends its workers; a handler of the caller means nothing here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with_caller, args=(watched, on_orphaned), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = pipe.recv_bytes()
            try:
                reply, status = work(message), b"1"
            except BaseException as error:  # everything is told to the caller
                failure = _Failure(type(error).__name__, str(error), traceback.format_exc())
                reply, status = msgspec.msgpack.encode(failure), b"0"
            pipe.send_bytes(status)
            pipe.send_bytes(reply)


def _end_with_caller(watched: int, on_orphaned: Callable[[], None] | None) -> None:
    os.read(watched, 1)
    if on_orphaned is not None:
        on_orphaned()
    os._exit(1)
