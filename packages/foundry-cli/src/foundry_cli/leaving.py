"""End the process although a thread of it is still in the middle of something.

A stop signal during the training of a tokenizer leaves SentencePiece computing in a thread that nobody waits for. An
ordinary end of the interpreter pulls the ground from under such a thread, and its C++ aborts the process: exit code 134
instead of that of the signal. And one rank of several that failed must not wait for the others, who wait for it.
"""

import atexit
import os
import sys
import threading
from typing import NoReturn

from foundry_cli.ranks import is_alone


def leave(code: int) -> NoReturn:
    """Exit with `code`; everything that an ordinary end waits for or calls is waited for and called."""
    if code and (any(thread.daemon for thread in threading.enumerate()) or not is_alone()):
        threading._shutdown()  # type: ignore[attr-defined]  # as `multiprocessing` ends its children
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    sys.exit(code)
