"""A step that is another program: a document goes to its standard input, the new text comes from its standard output.

    {command: [tr, a-z, A-Z]}                                    "In Paris" -> "IN PARIS"
    {command: [python, ablate.py, --drop, noun], timeout_seconds: 5}

One process per document, started without a shell in the project's root, so that arguments mean what they say. A program
that fails, hangs or writes something else than UTF-8 stops the work; one that writes nothing removes the document.
"""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

from msgspec import Meta

from foundry_config.errors import ConfigError, DataError
from foundry_data.documents import MAX_DOCUMENT_BYTES, escaped
from foundry_data.fingerprint import fingerprint
from foundry_data.fs import sha256_file
from foundry_data.project_code import named_files, script_files
from foundry_data.transform_kinds import DocumentTransform, Edit, StepContext, Text

MESSAGE_CHARACTERS = 500
CHUNK_BYTES = 2**16

# Process groups of running programs, so that a worker that has to end at once can end them too.
_running: set[int] = set()
_starting = threading.Lock()  # held from the start of a program until it is in the set


class Command(DocumentTransform):
    """Send each document through a program."""

    seedless: ClassVar[bool] = True
    if_all_removed: ClassVar[str] = "it must write the text of every document that stays to its standard output"

    command: Annotated[tuple[Text, ...], Meta(min_length=1)]
    timeout_seconds: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    """Longest time for one document. [seconds]"""

    def editor(self, context: StepContext, /) -> Edit:
        """Return a function that runs the program on a text."""
        arguments = [str(find_program(self.command[0], context.base_dir)), *self.command[1:]]
        return lambda text: _run(arguments, text, self.timeout_seconds, context.base_dir)

    def code(self, context: StepContext, /) -> str:
        """Fingerprint the program, every argument that names a file, and what those import that are Python scripts."""
        program = find_program(self.command[0], context.base_dir)
        files = named_files(self.command[1:], context.base_dir)
        imported = [path for file in [program, *files] if file.suffix == ".py" for path in script_files(file).values()]
        return fingerprint([list(self.command), *(sha256_file(path) for path in [program, *files, *imported])])


def find_program(name: str, base_dir: Path) -> Path:
    """Return the file that `name` starts: from PATH, or below `base_dir` if the name has a slash.

    Raises:
        ConfigError: There is no such program, or it may not be executed.
    """
    found = shutil.which(str(base_dir / name) if "/" in name else name)
    if found is None:
        where = f"in {str(base_dir)!r}" if "/" in name else "on PATH"
        raise ConfigError(f"there is no program {name!r} {where}; install it, or make the file executable")
    return Path(found)


def stop_running_programs() -> None:
    """Kill every program that a step of this process has started and that still runs; it can start no more."""
    _starting.acquire()  # for good: whoever is about to start another one waits for the end of the process
    for group in list(_running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _run(arguments: list[str], text: str, timeout_seconds: float, base_dir: Path) -> str:
    """Return what the program writes.

    Raises:
        DataError: It cannot be started, takes too long, ends with a status other than 0, or writes no UTF-8.
    """
    shown = escaped(" ".join(arguments))
    pipe = subprocess.PIPE
    try:
        with _starting:
            process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, cwd=base_dir, process_group=0)
            _running.add(process.pid)
    except OSError as error:
        raise DataError(f"cannot start {shown}: {error.strerror or error}") from error
    try:
        output, complaints = _talk(process, text.encode(), timeout_seconds)
    except TimeoutError as error:
        raise DataError(f"{shown} took longer than {timeout_seconds:g} s; raise timeout_seconds, or mend it") from error
    except OverflowError as error:
        raise DataError(f"{shown} wrote more than {MAX_DOCUMENT_BYTES:,} bytes for one document; mend it") from error
    finally:
        _end(process)
    if process.returncode != 0:
        raise DataError(f"{shown} {_ending(process.returncode)}: {_tail(complaints)}")
    try:
        return output.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{shown} wrote something else than UTF-8: {error.reason} at byte {error.start}") from error


def _talk(process: "subprocess.Popen[bytes]", data: bytes, timeout_seconds: float) -> tuple[bytes, bytes]:
    """Write `data` while reading; return output and complaints. Unlike `communicate`, memory is bounded.

    Raises:
        TimeoutError: The program still runs, or holds its output open, after so many seconds.
        OverflowError: It writes more than a document may have.
    """
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    deadline = time.monotonic() + timeout_seconds
    output, complaints, rest = bytearray(), bytearray(), memoryview(data)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, complaints)
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                if key.data is None:
                    rest = _feed(key.fd, rest)
                    finished = not rest
                else:
                    chunk = os.read(key.fd, CHUNK_BYTES)
                    key.data.extend(chunk)
                    finished = not chunk
                if finished:
                    selector.unregister(key.fileobj)
                    cast(Any, key.fileobj).close()
            if len(output) > MAX_DOCUMENT_BYTES:
                raise OverflowError
            del complaints[: -4 * MESSAGE_CHARACTERS]
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    return bytes(output), bytes(complaints)


def _feed(descriptor: int, data: memoryview) -> memoryview:
    """Write what the pipe takes; return what is left, nothing if the program does not read on."""
    try:
        return data[os.write(descriptor, data[:CHUNK_BYTES]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of the program: itself if it still runs, and children that outlived it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _running.discard(process.pid)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _ending(status: int) -> str:
    return f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"


def _tail(complaints: bytes) -> str:
    text = complaints.decode(errors="replace").strip()
    return escaped(text[-MESSAGE_CHARACTERS:]) or "it wrote nothing to its standard error"
