"""The exit code is that of the command, also when a thread is left behind in C++ code that cannot be interrupted."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import atexit, threading
from foundry_cli.leaving import leave

atexit.register(print, "exit functions were called")
work = threading.Event()
threading.Thread(target=work.wait, daemon=DAEMON).start()
threading.Thread(target=lambda: (threading.main_thread().join(), work.DONE(), print("a save was waited for"))).start()
try:
    leave(CODE)
finally:
    print("unwound")
"""


@pytest.mark.parametrize(
    ("code", "daemon", "unwound"), [(138, True, False), (0, True, True), (138, False, True)], ids=str
)
def test_nothing_is_left_out_but_the_end_of_the_interpreter(code: int, daemon: bool, unwound: bool) -> None:
    done = "is_set" if daemon else "set"
    program = PROGRAM.replace("CODE", str(code)).replace("DAEMON", str(daemon)).replace("DONE", done)

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ended.returncode == code
    assert "a save was waited for" in ended.stdout and "exit functions were called" in ended.stdout
    assert ("unwound" in ended.stdout) == unwound
