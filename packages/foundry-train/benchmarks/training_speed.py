"""Compare the speed of training with that of peers, as ratios within one run on one machine.

    uv run python packages/foundry-train/benchmarks/training_speed.py --shape tiny --rounds 3
    uv run python packages/foundry-train/benchmarks/training_speed.py --shape cuda-gpt2-124m --compile off on

Every contestant is a process of its own; rounds go through all of them in turn, so that a machine that gets warmer or
busier does so for all, and the median counts. The data are prepared before the clock starts. A contestant that fails is
shown as failed and the others go on. Nothing else should run on the machine.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES, device_of
from workload import STARTED, WARM_UP_STEPS, make_config, write_corpus

from foundry_config import dump_config
from foundry_data.processor import DataProcessor
from foundry_model import flops_per_token
from foundry_train.devices import peak_flops

HERE = Path(__file__).parent
NAMES = ("foundry", "command", "bare", "plain-gpt", "hf-trainer", "hf-trainer-ours", "litgpt")
Results = dict[tuple[str, str], list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["tiny"])
    parser.add_argument("--contestants", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), default=["off"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the prepared data from one call to the next")
    task = parser.parse_args()
    if task.steps < WARM_UP_STEPS + 2:
        parser.error(f"--steps must be at least {WARM_UP_STEPS + 2}: the first {WARM_UP_STEPS} are not timed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (task.folder or Path(temporary)).resolve()
        for name in task.shape:
            prepare(name, folder)
            show(name, measure(name, folder, task))


def prepare(name: str, folder: Path) -> None:
    """Make tokenizer and token store."""
    write_corpus(folder)
    config = make_config(name, SHAPES[name], folder, steps=1, compile_mode="off", run="unused")
    DataProcessor(config, folder).preprocess()


def measure(name: str, folder: Path, task: argparse.Namespace) -> Results:
    """Run all contestants, round after round."""
    results: Results = {}
    for number in range(1, task.rounds + 1):
        for mode in task.compile:
            for contestant in task.contestants:
                found = run(contestant, name, folder, steps=task.steps, mode=mode)
                if found is not None:
                    results.setdefault((contestant, mode), []).append(found)
                    # at once: a measurement that is cut off keeps what it had
                    print(f"{name}, round {number}: {contestant} (compile {mode}) {json.dumps(found)}", flush=True)
    return results


def run(contestant: str, name: str, folder: Path, *, steps: int, mode: str) -> dict[str, Any] | None:
    """Run one contestant; None if it failed."""
    if contestant == "command":
        return first_step_of_the_command(name, folder, mode)
    if contestant in ("plain-gpt", "litgpt") and SHAPES[name].architecture != "gpt2":
        return None  # they are GPTs, which would do less than a llama of the same widths
    options = [name, "--steps", str(steps), "--compile", mode]
    if contestant == "litgpt":
        uv = shutil.which("uv") or "uv"
        command = [uv, "run", "--isolated", "--no-project", "--with", "litgpt", str(HERE / "litgpt_contestant.py")]
        command += options
    else:
        python = python_with_accelerate() if contestant.startswith("hf-trainer") else [sys.executable]
        command = [*python, str(HERE / "contestants.py"), contestant, *options, "--folder", str(folder)]
    environment = os.environ | {STARTED: repr(time.time())}
    environment.setdefault("CUDA_VISIBLE_DEVICES", "0")  # HF Trainer would spread a larger batch over all cards
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last_line = (done.stderr.strip().splitlines() or ["no output"])[-1]
        reason = f"exit code {done.returncode}, {last_line}"
        print(f"{contestant} on {name} (compile {mode}) failed: {reason}", file=sys.stderr)
        return None


def python_with_accelerate() -> list[str]:
    """Begin a command of this environment plus accelerate, which HF Trainer needs; uv itself is not timed."""
    if importlib.util.find_spec("accelerate") is not None:
        return [sys.executable]
    start = f"import os, sys, time; os.environ[{STARTED!r}] = repr(time.time()); "
    start += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return [shutil.which("uv") or "uv", "run", "--no-sync", "--with", "accelerate", "python", "-c", start]


def first_step_of_the_command(name: str, folder: Path, mode: str) -> dict[str, Any] | None:
    """Seconds from typing `foundry train` to the first update, by the clock of metrics.jsonl."""
    with tempfile.TemporaryDirectory(dir=folder) as run:
        config = make_config(name, SHAPES[name], folder, steps=2, compile_mode=mode, run=run)
        path = Path(run) / "experiment.yaml"
        path.write_text(dump_config(config))
        started = time.time()
        command = [sys.executable, "-m", "foundry_cli", "train", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"command on {name} (compile {mode}) failed: {done.stderr[-500:]}", file=sys.stderr)
            return None
        lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return {"first_step_seconds": next(line["time"] for line in lines if line["kind"] == "step") - started}


def show(name: str, results: Results) -> None:
    """Print a table; ratios are ours over theirs at the same compile setting."""
    shape, device = SHAPES[name], torch.device(device_of(name))
    peak = peak_flops(device, shape.precision)
    print(f"\n{name}: {shape.tokens:,} tokens per step, {shape.precision}, torch {torch.__version__}, {device}")
    print(row("contestant", "compile", "tokens/s", "foundry is", "first step", "peak", "MFU"))
    for (contestant, mode), found in results.items():
        rate = median(found, "tokens_per_second") or 0.0
        ours = median(results.get(("foundry", mode), []), "tokens_per_second")
        first, memory = median(found, "first_step_seconds"), median(found, "peak_bytes")
        columns = (
            f"{rate:,.0f}" if rate else "-",
            f"x{ours / rate:.2f}" if ours and rate else "-",
            f"{first:.1f} s" if first else "-",
            f"{memory / 2**30:.2f} GiB" if memory else "-",
            f"{100 * rate * flops(name) / peak:.1f}%" if peak and rate else "-",
        )
        print(row(contestant, mode, *columns))


def row(*columns: str) -> str:
    """One line of the table."""
    first, *rest = columns
    return f"{first:16}" + "".join(f"{column:>12}" for column in rest)


def flops(name: str) -> float:
    """Forward and backward, for one token."""
    shape = SHAPES[name]
    config = make_config(name, shape, Path("unused"), steps=1, compile_mode="off", run="unused")
    return flops_per_token(config, shape.length)


def median(found: list[dict[str, Any]], key: str) -> float | None:
    """Median of what was measured, or None."""
    values = [entry[key] for entry in found if entry.get(key) is not None]
    return statistics.median(values) if values else None


if __name__ == "__main__":
    main()
