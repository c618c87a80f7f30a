"""Send every stop signal in every phase of a run; look at the exit code; go on; compare with the undisturbed run.

    python signal_trials.py            once in each phase
    python signal_trials.py --twice    and once more while the first one is being obeyed

A phase is held open until the signal has been sent: the child tells its parent through a pipe that it is there, and
waits for the answer.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import (
    PLAIN,
    Outcome,
    autocast,
    config_for,
    make_model,
    make_optimizer,
    outcome_of,
    scratch_root,
    train,
    update,
    warm_up,
)

from foundry_config.errors import FoundryError
from foundry_data import fs
from foundry_data.fs import Backend
from foundry_train.checkpointing import CheckpointManager
from foundry_train.run_dir import RunDirectory
from foundry_train.safetensors_writer import weights_digest
from foundry_train.signals import STOPPING, StopSignals
from foundry_train.state import TrainState

Here = Callable[[str], None]

STAGES = ("tokenizer", "preprocessing", "locked", "building", "recovery", "compiling", "warm-up")
IN_LOOP = ("training", "micro-batch", "evaluation", "copying", "background save")
IN_SAVE = ("allocating", "writing", "syncing", "manifest", "renaming", "retention")
PHASES = (*STAGES, *IN_LOOP, *IN_SAVE)


class Holding(Backend):
    """The real disk, which says when the third checkpoint comes to certain operations."""

    def __init__(self, here: Here) -> None:
        self._here = here
        self._step = "00000003"
        self._paths: dict[int, str] = {}

    def open_new(self, path: Path) -> int:
        fd = super().open_new(path)
        self._paths[fd] = str(path)
        return fd

    def allocate(self, fd: int, size: int) -> None:
        self._tell("allocating", self._paths.get(fd, ""))
        super().allocate(fd, size)

    def write(self, fd: int, data: memoryview) -> int:
        path = self._paths.get(fd, "")
        self._tell("manifest" if path.endswith("MANIFEST.json") else "writing", path)
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._tell("syncing", self._paths.get(fd, ""))
        super().fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        if target.name == f"step-{self._step}":
            self._here("renaming")
        super().rename(source, target)

    def rmdir(self, path: Path) -> None:
        self._here("retention")
        super().rmdir(path)

    def _tell(self, phase: str, path: str) -> None:
        if f".tmp-{self._step}" in path:
            self._here(phase)


def run(root: Path, here: Here, signals: StopSignals) -> None:
    """A whole run in stages, as the trainer has them; `here` marks where it is."""
    here("building")
    signals.run_in_thread(lambda: here("tokenizer"))
    here("preprocessing")
    variant = PLAIN._replace(background=True)
    with RunDirectory.open(root / "run", config_for(variant)) as directory, fs.using(Holding(here)):
        here("locked")
        directory.bind(data_digest="sha256:data", tokenizer_digest="sha256:tokenizer")
        manager = CheckpointManager(config_for(variant), root, "commit")
        manager.set_identity(
            run_id=directory.run_id, attempt=directory.attempt, listener=directory, fingerprint={"torch": "x"}
        )
        manager.clean_up()
        model = make_model(variant)
        optimizer = make_optimizer(variant, model)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        here("recovery")
        full = manager.find_latest()
        state = manager.restore(model, optimizer, scaler, full) if full else TrainState()
        directory.start_attempt(from_step=state.step if full else None)
        directory.truncate_metrics(state.step)
        here("compiling")
        with autocast(variant):
            here("warm-up")
        with signals.deferred():
            _loop(manager, directory, model, optimizer, scaler, state, here, signals)
    (root / "done.json").write_text(json.dumps({"weights": weights_digest(dict(model.state_dict()))}))


def _loop(
    manager: CheckpointManager,
    directory: RunDirectory,
    model: torch.nn.Module,
    optimizer: Any,
    scaler: Any,
    state: TrainState,
    here: Here,
    signals: StopSignals,
) -> None:
    details = {"state": state, "scaler": scaler}
    while state.step < PLAIN.steps:
        if signals.requested:
            manager.save_checkpoint(model, None, optimizer, global_step=state.step, **details)
            directory.update_status(phase="stopped", step=state.step)
            signals.check()
        loss, norm = update(model, optimizer, scaler, PLAIN, state.step)
        here("micro-batch")
        state.step += 1
        directory.append_metrics({"kind": "step", "step": state.step, "loss": loss.hex(), "norm": norm.hex()})
        directory.made_progress()
        here("training" if state.step == 1 else "evaluation")
        if state.step == 2:
            manager.save_async(model, None, optimizer, global_step=2, kind="weights", label="m2", **details)
            here("background save")
        else:
            here("copying")
            manager.save_async(model, None, optimizer, global_step=state.step, **details)
        manager.wait()
        manager.raise_pending()


def trial(root: Path, number: int, phase: str, *, twice: bool) -> tuple[int, float]:
    """Run in a child, send it the signal in its phase; returns the exit code and the seconds until it ended."""
    told, tell = os.pipe()
    answered, answer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        os.close(answer)
        _child(root, phase, tell, answered, twice=twice)
    os.close(tell)
    os.close(answered)
    assert os.read(told, 1) == b"1", f"{phase} was never reached"
    started = time.monotonic()
    os.kill(child, number)
    with contextlib.suppress(BrokenPipeError):  # a child that the signal took out of its phase may be gone already
        os.write(answer, b"1")
        if twice and os.read(told, 1) == b"2":
            os.kill(child, number)
            os.write(answer, b"2")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(told)
    os.close(answer)
    return code, time.monotonic() - started


def _child(root: Path, phase: str, tell: int, answered: int, *, twice: bool) -> None:
    passed: list[str] = []

    def here(name: str) -> None:
        if name == phase and not passed:
            passed.append(name)
            os.write(tell, b"1")
            os.read(answered, 1)
        elif twice and passed and len(passed) == 1:
            passed.append(name)  # the next phase, while the first signal is being obeyed
            os.write(tell, b"2")
            os.read(answered, 1)

    code = 70
    try:
        moments = itertools.count(step=3600)  # an hour between any two signals
        with StopSignals(clock=lambda: float(next(moments))) as signals:
            run(root, here, signals)
            signals.check()
        code = 0
    except FoundryError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--twice", action="store_true")
    twice = parser.parse_args().twice
    warm_up()
    base = Path(tempfile.mkdtemp(dir=scratch_root(), prefix="foundry-signals-"))
    wrong: list[str] = []
    combinations, slowest = 0, 0.0
    try:
        (base / "reference").mkdir()
        train(base / "reference")
        reference = outcome_of(base / "reference")
        for phase in PHASES if not twice else IN_LOOP + IN_SAVE[:-1]:
            for number in STOPPING if not twice else STOPPING[:1]:
                combinations += 1
                seconds = _examine(base / "trial", number, phase, reference, wrong, twice=twice)
                slowest = max(slowest, seconds)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    sys.stdout.write(json.dumps({"combinations": combinations, "slowest": slowest, "wrong": wrong}) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _examine(root: Path, number: int, phase: str, reference: Outcome, wrong: list[str], *, twice: bool) -> float:
    """Try one signal in one phase; returns the seconds until the run had ended."""
    root.mkdir()
    code, seconds = trial(root, number, phase, twice=twice)
    name = signal.Signals(number).name
    if code != 128 + number:
        wrong.append(f"{name} in {phase}: exit code {code}")
    train(root)
    outcome = outcome_of(root)
    if (outcome.steps, outcome.weights) != (reference.steps, reference.weights):
        wrong.append(f"{name} in {phase}: went on to another result")
    shutil.rmtree(root)
    return seconds


if __name__ == "__main__":
    main()
