"""What holds for every test of the workspace: one thread a process, so that a busy machine slows tests and no more.

Threads that wait for each other by spinning make a miniature model many times slower when the cores are shared, and two
threads gain nothing on it. Set before torch is imported; the processes that tests start inherit it.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
