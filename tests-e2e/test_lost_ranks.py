"""One of two processes fails or is killed: the other ends too, says so, and the run goes on from what was saved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = """
import os, signal

def rate(step, shape):
    if step == 6 and os.environ.get("RANK") == "1" and os.path.exists("TROUBLE"):
        FAILURE
    return 1.0
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (
            "raise ValueError('of rank 1 alone')",
            "error of rank 1: lr_schedule 'rates:rate' raised ValueError: of rank 1",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "exitcode  : -9"),
    ],
    ids=["raises", "killed"],
)
def test_the_other_process_ends_and_the_run_goes_on(make_experiment, tmp_path, failure, said):
    config = make_experiment(tmp_path)
    (tmp_path / "rates.py").write_text(STEPS.replace("FAILURE", failure))
    (tmp_path / "TROUBLE").touch()
    tools = Path(sys.executable).parent
    variables = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    train = f"torchrun --no-python --nproc-per-node 2 foundry train {config.name} --set training.lr_schedule=rates:rate"
    command = [*train.split(), "--set", "training.save_every_steps=4", "--base-dir", str(tmp_path)]

    failed = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)

    assert failed.returncode == 1
    assert said in failed.stderr
    assert "error: another process of this run ended or cannot be reached" in failed.stderr
    status = json.loads((tmp_path / "runs" / "tiny" / "status.json").read_text())
    assert (status["phase"], status["resumable"]) == ("failed", True)

    (tmp_path / "TROUBLE").unlink()
    again = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)

    assert again.returncode == 0, again.stderr[-2000:]
    assert "10 of 10 steps" in again.stdout and "resumed at step" in again.stdout
