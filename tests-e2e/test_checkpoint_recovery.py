"""Train -> save -> crash -> resume -> verify: what a run that was cut off comes to is what it would have come to."""

import json
import os
import signal
import subprocess
import sys

import pytest

from foundry_config import load_config
from foundry_train import Hook, Trainer

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

# Kills its own process right after an update: no chance to tidy up.
KILLED = """
import os, signal, sys
from pathlib import Path
from foundry_config import load_config
from foundry_train import Hook, Trainer

class Kill(Hook):
    def on_step(self, moment):
        if moment.step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

path = Path(sys.argv[1])
Trainer(load_config(path), path.parent, hooks=[Kill()]).train()
"""


def kill_after(workspace, step: int) -> int:
    """Train in a process of its own that is killed after `step` updates; return its exit code."""
    result = subprocess.run(
        [sys.executable, "-c", KILLED, workspace / "tiny.json", str(step)],
        cwd=workspace, capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return result.returncode


def stop_after(workspace, step: int, number: int = signal.SIGTERM) -> int:
    """Train in this process, which gets signal `number` after `step` updates; return the exit code."""

    class Stop(Hook):
        def on_step(self, moment):
            if moment.step == step:
                os.kill(os.getpid(), number)

    return Trainer(load_config(workspace / "tiny.json"), workspace, hooks=[Stop()]).train().exit_code


def steps_of(run) -> list[tuple[int, float, float]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    return [(record["step"], record["loss"], record["grad_norm"]) for record in found]


def weights_of(run, step: int) -> str:
    manifest = run / "checkpoints" / f"step-{step:08d}" / "MANIFEST.json"
    return json.loads(manifest.read_text())["weights"]["digest"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, foundry, make_experiment):
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    config = make_experiment(folder, training__save_every_steps=2)
    answer = foundry("train", config)
    assert answer.code == 0, answer.err
    return folder / "runs" / "tiny"


@pytest.fixture
def saving(tmp_path, make_experiment):
    make_experiment(tmp_path, training__save_every_steps=2)
    return tmp_path


def test_a_killed_run_goes_on_bit_for_bit(saving, whole, foundry):
    assert kill_after(saving, 7) == -signal.SIGKILL

    answer = foundry("train", saving / "tiny.json", "--json")

    run = saving / "runs" / "tiny"
    assert answer.code == 0, answer.err
    assert answer.json["resumed_from"] in (4, 6)  # the save of step 6 may have been under way
    assert steps_of(run) == steps_of(whole)
    assert weights_of(run, 10) == weights_of(whole, 10)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_run_stopped_by_a_signal_saves_ends_with_its_code_and_goes_on_bit_for_bit(saving, whole, foundry, name):
    number = signal.Signals[name]

    assert stop_after(saving, 3, number) == 128 + number
    answer = foundry("train", saving / "tiny.json", "--json")

    run = saving / "runs" / "tiny"
    assert answer.json["resumed_from"] == 3
    assert steps_of(run) == steps_of(whole)
    assert weights_of(run, 10) == weights_of(whole, 10)
    assert foundry("verify", run, "--against", whole).code == 0


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(saving, whole, foundry):
    stop_after(saving, 7)
    run = saving / "runs" / "tiny"
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    weights = newest / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)

    answer = foundry("train", saving / "tiny.json", "--json")

    assert answer.code == 0, answer.err
    assert list((run / "checkpoints" / ".quarantine").glob("step-*"))
    assert answer.json["resumed_from"] < 7
    assert steps_of(run) == steps_of(whole)
    assert weights_of(run, 10) == weights_of(whole, 10)


def test_resuming_is_refused_where_it_was_ruled_out_and_insisted_on_where_there_is_nothing(saving, foundry):
    assert foundry("train", saving / "tiny.json", "--resume", "must").code == 4
    stop_after(saving, 3)
    assert foundry("train", saving / "tiny.json", "--resume", "never").code == 5


def test_a_fork_starts_a_run_of_its_own_with_its_parent_recorded(saving, foundry):
    stop_after(saving, 4)
    parent = saving / "runs" / "tiny"
    before = {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()}

    answer = foundry(
        "train", saving / "tiny.json", "--fork", f"{parent}@4", "--set", "training.output_dir=runs/fork", "--json"
    )

    assert answer.code == 0, answer.err
    assert json.loads((saving / "runs" / "fork" / "run.json").read_text())["parent"]["step"] == 4
    assert {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()} == before
