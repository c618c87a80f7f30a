"""Let every disk operation of a run go wrong in every way, go on after it, and compare with the undisturbed run.

python crash_trials.py fresh recovery naive --share 0/2        prints one line of JSON, one entry for each

A fault that kills has a process of its own; one that is an error of the disk needs none, unless it leaves a file open.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import PLAIN, Outcome, Variant, in_fork, in_process, outcome_of, scratch_root, train, warm_up
from safetensors.torch import load_file, save
from torch import nn

from foundry_config.errors import StorageError
from foundry_data import fs
from foundry_data.fs_faults import FaultInjecting
from foundry_train.checkpointing import CheckpointManager
from foundry_train.state import TrainState


def prepare_recovery(root: Path, variant: Variant) -> None:
    """A run that has much to recover from: its newest checkpoint damaged, leftovers of every kind."""
    train(root, variant, stop_at=3)
    checkpoints = root / "run/checkpoints"
    newest = checkpoints / "step-00000003/trainer/optimizer.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 4
    newest.write_bytes(data)
    shutil.copytree(checkpoints / "step-00000001", checkpoints / ".tmp-00000004-0123456789ab")
    shutil.copytree(checkpoints / "step-00000001", checkpoints / ".trash-00000000-0123456789ab")
    (checkpoints / "step-00000002").rename(checkpoints / ".old-00000002-0123456789ab")
    with (root / "run/metrics.jsonl").open("ab") as file:
        file.write(b'{"kind":"step","ste')


class Scenario(NamedTuple):
    """What is there before the run that goes wrong, how far that run goes, who saves, and which faults are tried."""

    prepare: Callable[[Path, Variant], None]
    stop_at: int | None
    manager_class: Callable[..., Any]
    every: int = 1


KILLING = ("before", "torn", "after")
MODES = (*KILLING, "enospc", "eio")


class Trials:
    """All faults of one scenario, each tried in a copy of the same beginning."""

    def __init__(self, base: Path, scenario: Scenario) -> None:
        self.base, self.scenario, self.manager_class = base, scenario, scenario.manager_class
        self.variant = PLAIN
        self.template = base / "template"
        self.template.mkdir()
        in_fork(lambda: scenario.prepare(self.template, self.variant))
        self.reference = self._reference()
        self.names = self._operation_names()
        self.counts = {"operations": len(self.names), "faults": 0, "killed": 0, "refused": 0, "absorbed": 0}
        self.wrong: list[str] = []

    def run(self, share: tuple[int, int]) -> dict[str, Any]:
        numbered = list(enumerate(self.names, 1))
        trials = [(at, mode) for at, name in numbered for mode in MODES if mode != "torn" or name == "write"]
        for at, mode in trials[:: self.scenario.every][share[0] :: share[1]]:
            self._try(at, mode)
        return {**self.counts, "wrong": self.wrong}

    def _reference(self) -> Outcome:
        root = self.base / "reference"
        root.mkdir()
        assert in_fork(lambda: train(root, self.variant, manager_class=self.manager_class)) == 0
        return outcome_of(root)

    def _operation_names(self) -> list[str]:
        root = self.base / "count"
        shutil.copytree(self.template, root, symlinks=True)

        def counted() -> None:
            with fs.using(FaultInjecting(None)) as disk:
                train(root, self.variant, stop_at=self.scenario.stop_at, manager_class=self.manager_class)
            (root / "names.json").write_text(json.dumps(disk.names))

        assert in_fork(counted) == 0
        return json.loads((root / "names.json").read_text())

    def _try(self, at: int, mode: str) -> None:
        root = self.base / "trial"
        shutil.copytree(self.template, root, symlinks=True)

        def broken() -> None:
            with fs.using(FaultInjecting(at, mode)):
                train(root, self.variant, stop_at=self.scenario.stop_at, manager_class=self.manager_class)

        ends_by_itself = mode not in KILLING and self.names[at - 1] != "close"
        first = in_process(broken) if ends_by_itself else in_fork(broken)
        second = self._go_on(root)
        kind = {0: "absorbed", -signal.SIGKILL: "killed", 7: "refused"}.get(first)
        self.counts["faults"] += 1
        if kind:
            self.counts[kind] += 1
        problem = _problem(root, self.variant, kind, second, self.reference)
        if problem:
            self.wrong.append(f"{mode} at operation {at} ({self.names[at - 1]}), which ended with {first}: {problem}")
        shutil.rmtree(root)

    def _go_on(self, root: Path) -> str | None:
        """Run to the end; returns what stopped it, if anything did."""
        try:
            train(root, self.variant, manager_class=self.manager_class)
        except Exception as error:
            return repr(error)
        return None


def _problem(root: Path, variant: Variant, kind: str | None, second: str | None, reference: Outcome) -> str | None:
    if kind is None:
        return "an exit code that is in no table"
    if second is not None:
        return f"going on ended with {second}"
    outcome = outcome_of(root)
    for field in Outcome._fields:
        if field != "saved" and getattr(outcome, field) != getattr(reference, field):
            return f"{field} differ: {getattr(outcome, field)} instead of {getattr(reference, field)}"
    # a save that the policy may skip leaves an older one in place; a kill in the very last retention leaves one more
    if not {*variant.milestones, variant.steps} <= set(outcome.saved) or len(outcome.saved) > len(reference.saved) + 1:
        return f"saved {outcome.saved}"
    left = [path.name for path in (root / "run/checkpoints").glob(".t*")]
    return f"leftovers {left}" if left else None


class NaiveManager(CheckpointManager):
    """What many trainers do: write in place, and on resume trust the newest folder. It must fail the trials."""

    def save_async(self, model: nn.Module, tokenizer: Any, optimizer: Any, **details: Any) -> None:
        folder = self.checkpoints / f"step-{details['global_step']:08d}"
        shutil.rmtree(folder, ignore_errors=True)
        states = optimizer.optimizers[0].state.values()
        moments = {f"{index}.{key}": value for index, state in enumerate(states) for key, value in state.items()}
        try:
            fs.make_directories(folder)
            fs.write_new(folder / "model.safetensors", [save({k: v.clone() for k, v in model.state_dict().items()})])
            fs.write_new(folder / "optimizer.safetensors", [save(moments)])
            fs.write_new(folder / "rng.safetensors", [save({"rng": torch.get_rng_state()})])
        except OSError as error:
            raise StorageError(str(error)) from error

    def restore(self, model: nn.Module, optimizer: Any, *rest: Any, **details: Any) -> TrainState:
        folder = max(self.checkpoints.glob("step-*"))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        moments = load_file(folder / "optimizer.safetensors")
        parameters = [p for member in optimizer.optimizers for group in member.param_groups for p in group["params"]]
        for key, value in moments.items():
            index, _, name = key.partition(".")
            optimizer.optimizers[0].state[parameters[int(index)]][name] = value.clone()
        torch.set_rng_state(load_file(folder / "rng.safetensors")["rng"])
        return TrainState(step=int(folder.name.removeprefix("step-")))


SCENARIOS = {
    "fresh": Scenario(lambda root, variant: None, None, CheckpointManager),
    "recovery": Scenario(prepare_recovery, 2, CheckpointManager),
    "naive": Scenario(lambda root, variant: None, None, NaiveManager, every=4),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", nargs="+", choices=list(SCENARIOS))
    parser.add_argument("--share", default="0/1")
    given = parser.parse_args()
    part, _, parts = given.share.partition("/")
    warm_up()
    found: dict[str, dict[str, Any]] = {}
    for name in given.scenario:
        started = time.monotonic()
        base = Path(tempfile.mkdtemp(dir=scratch_root(), prefix="foundry-faults-"))
        try:
            found[name] = Trials(base, SCENARIOS[name]).run((int(part), int(parts)))
        finally:
            shutil.rmtree(base, ignore_errors=True)
        found[name]["seconds"] = time.monotonic() - started
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # objects kept from the collector would be reported as leaks at a normal end


if __name__ == "__main__":
    main()
