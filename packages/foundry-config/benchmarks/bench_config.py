"""Import and load the annotated template, against pydantic models with the same fields and bounds.

    python packages/foundry-config/benchmarks/bench_config.py [--runs 15]

Each measure is the median over fresh processes (import, commands) or over repetitions in one (load, validate), the two
sides taking turns. A ratio above 1 says how many times faster this package is; commands are given as a multiple of
`python -c pass` plus the import of typer. pydantic reads with `yaml.safe_load`, as its users do, and once more with
PyYAML's fastest loader.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydantic_twin import twin_source

TEMPLATE = Path(__file__).parents[3] / "configs" / "template.yaml"
TIMED = "import time; start = time.perf_counter(); {program}; print(time.perf_counter() - start)"


def main() -> None:
    """Measure and print one line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "twin.py").write_text(twin_source(), encoding="utf-8")
        sys.path.insert(0, folder)
        print(f"{'measure':34} {'this':>10} {'pydantic':>10} {'ratio':>7}")
        report_import(folder, runs)
        report_load(runs)
        report_commands(runs)


def report_import(folder: str, runs: int) -> None:
    """Compare `import foundry_config` with the import of the twin models, alone and with a first file loaded."""
    load = f"load_config({str(TEMPLATE)!r}, environ={{}})"
    twin = f"twin.ExperimentConfig.model_validate(yaml.safe_load(open({str(TEMPLATE)!r})))"
    for name, our_program, their_program in (
        ("import", "import foundry_config", "import twin"),
        ("import and load", f"from foundry_config import load_config; {load}", f"import twin, yaml; {twin}"),
    ):
        ours, theirs = [], []
        for _ in range(runs):
            ours.append(program_seconds(our_program, folder))
            theirs.append(program_seconds(their_program, folder))
        line(name, ours, theirs)


def report_load(runs: int) -> None:
    """Compare reading and validating the template."""
    import twin
    import yaml

    from foundry_config import config_from_dict, load_config

    text = TEMPLATE.read_text(encoding="utf-8")
    data = yaml.load(text, Loader=yaml.CSafeLoader)
    measures: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "load (yaml.safe_load)": (
            lambda: load_config(TEMPLATE, environ={}),
            lambda: twin.ExperimentConfig.model_validate(yaml.safe_load(TEMPLATE.read_text())),
        ),
        "load (yaml.CSafeLoader)": (
            lambda: load_config(TEMPLATE, environ={}),
            lambda: twin.ExperimentConfig.model_validate(yaml.load(TEMPLATE.read_text(), yaml.CSafeLoader)),
        ),
        "validate plain data": (
            lambda: config_from_dict(data),
            lambda: twin.ExperimentConfig.model_validate(data),
        ),
    }
    for name, (ours, theirs) in measures.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(runs):
            for function, seconds in zip((ours, theirs), times):
                start = time.perf_counter()
                for _ in range(5):
                    function()
                seconds.append((time.perf_counter() - start) / 5)
        line(name, *times)


def report_commands(runs: int) -> None:
    """Compare `foundry --help` and `foundry validate` with an empty program plus the import of typer."""
    foundry = shutil.which("foundry", path=str(Path(sys.executable).parent))
    if foundry is None:
        print("foundry is not installed here: its commands are not measured")
        return
    commands = {"foundry --help": [foundry, "--help"], "foundry validate": [foundry, "validate", str(TEMPLATE)]}
    for name, command in commands.items():
        ours, base = [], []
        for _ in range(runs):
            ours.append(process_seconds(command))
            base.append(process_seconds([sys.executable, "-c", "import typer"]))
        times = statistics.median(ours) / statistics.median(base)
        print(f"{name:34} {statistics.median(ours) * 1e3:8.1f}ms = {times:.2f} x an empty program with typer")


def program_seconds(program: str, folder: str) -> float:
    """Return how long a fresh process takes for `program`, once Python is up."""
    program = f"import sys; sys.path.insert(0, {folder!r}); {TIMED.format(program=program)}"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def process_seconds(command: list[str]) -> float:
    """Return how long a process takes from start to end."""
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def line(name: str, ours: list[float], theirs: list[float]) -> None:
    """Print one comparison of medians."""
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"{name:34} {mine * 1e3:8.2f}ms {other * 1e3:8.2f}ms {other / mine:6.1f}x")


if __name__ == "__main__":
    main()
