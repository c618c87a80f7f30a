"""How long threads of PyTorch wait for each other before they give way, on a machine that has other work as well.

Between two pieces of parallel work the threads of OpenMP spin, so that the next piece begins at once. Where the cores
are shared, they then spin in the place of the very thread that they wait for: beside one other busy process on two
cores, a miniature model trains eight times slower. Giving way soon makes that three times, but costs 4 to 8 % where
nothing else runs. So the load decides: that of the last minute, unless whatever made it has ended, as in a series of
runs. It is read once, since OpenMP reads its settings once; results do not depend on it.
"""

import os
from collections.abc import Callable, MutableMapping
from pathlib import Path

SPINS = "GOMP_SPINCOUNT"
OWN_SETTINGS = (SPINS, "OMP_WAIT_POLICY")
FEW = "10000"  # where nothing is set, libgomp spins 300,000 times before it sleeps
BUSY = 0.5  # of the cores of the machine, over the last minute
Load = Callable[[], tuple[float, float, float]]
LOAD: Load | None = getattr(os, "getloadavg", None)
CORES = os.cpu_count()


def others_running() -> int | None:
    """How many threads run or are ready to, at this moment and beside this one; None where the system does not tell."""
    try:
        # "0.20 0.18 0.12 1/80 11206": loads, then those that run and all that there are
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1
    except (OSError, ValueError, IndexError):
        return None


def give_way_if_busy(
    environ: MutableMapping[str, str] = os.environ,
    *,
    load: Load | None = LOAD,
    cores: int | None = CORES,
    running: Callable[[], int | None] = others_running,
) -> None:
    """Let threads spin shortly if other processes keep the machine busy; call before PyTorch is imported.

    Args:
        environ: Environment of this process; what it says about waiting is left alone.
        load: Returns the mean number of runnable processes over 1, 5 and 15 minutes; None where the system has none.
        cores: Of the machine.
        running: Returns how many other threads run now; None where the system does not tell.
    """
    if load is None or any(name in environ for name in OWN_SETTINGS):
        return
    try:
        last_minute = load()[0]
    except OSError:
        return
    if last_minute > BUSY * (cores or 1) and running() != 0:
        environ[SPINS] = FEW
