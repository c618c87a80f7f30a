"""How long a person waits for a sign of life: the first line of `foundry train`, and `foundry --help`.

    uv run python packages/foundry-cli/benchmarks/first_line.py

Medians over fresh processes, beside an empty program and the import of typer in the same run; the goal for the first
line is half a second. The training itself is ended after its first line.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

REPETITIONS = 7


def main() -> None:
    measures: dict[str, Callable[[], float]] = {
        "python -c pass": lambda: whole("-c", "pass"),
        "python -c 'import typer'": lambda: whole("-c", "import typer"),
        "foundry --help": lambda: whole("-m", "foundry_cli", "--help"),
        "first line of foundry train": first_line,
    }
    for name, measure in measures.items():
        seconds = statistics.median(measure() for _ in range(REPETITIONS))
        print(f"{name:<30} {seconds * 1000:7.0f} ms")


def whole(*arguments: str) -> float:
    """Return the seconds that `python ARGUMENTS` takes."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def first_line() -> float:
    """Return the seconds until `foundry train` says something."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "foundry_cli", "train", "foundry.yaml"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        seconds = time.perf_counter() - begin
        process.kill()
    return seconds


if __name__ == "__main__":
    main()
