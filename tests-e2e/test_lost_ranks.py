"""One of two processes fails or is killed, or all get a signal: they end, say so, and the run goes on from a save."""

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

    failed = train_with_two(config)

    assert failed.returncode == 1
    assert said in failed.stderr
    assert "error: another process of this run ended or cannot be reached" in failed.stderr, failed.stderr[-6000:]
    status = json.loads((tmp_path / "runs" / "tiny" / "status.json").read_text())
    assert (status["phase"], status["resumable"]) == ("failed", True)
    assert status["exit_reason"].startswith("WorkerError: another process of this run ended")

    (tmp_path / "TROUBLE").unlink()
    again = train_with_two(config)

    assert again.returncode == 0, again.stderr[-2000:]
    assert "10 of 10 steps" in again.stdout and "resumed at step" in again.stdout


SIGNAL_TO_ALL = (
    "os.kill(os.getpid(), signal.SIGTERM); os.environ['RANK'] == '0' and os.kill(os.getppid(), signal.SIGTERM)"
)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_signal_that_torchrun_passes_on_to_processes_that_have_it_already_does_not_cut_the_save_off(
    make_experiment, tmp_path
):
    config = make_experiment(tmp_path)
    (tmp_path / "rates.py").write_text(STEPS.replace('== "1"', 'in "01"').replace("FAILURE", SIGNAL_TO_ALL))
    (tmp_path / "TROUBLE").touch()

    stopped = train_with_two(config)

    assert "of 10 steps; stopped by SIGTERM and saved" in stopped.stdout, stopped.stderr[-2000:]
    status = json.loads((tmp_path / "runs" / "tiny" / "status.json").read_text())
    assert (status["phase"], status["exit_reason"], status["saved_step"]) == ("stopped", "SIGTERM", status["step"])
    assert status["step"] in {6, 7}


def train_with_two(config: Path) -> "subprocess.CompletedProcess[str]":
    """Train in two processes, with the rates of `rates.py` beside `config`, saving every four steps."""
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    settings = "--set training.lr_schedule=rates:rate --set training.save_every_steps=4"
    command = f"torchrun --no-python --nproc-per-node 2 foundry train {config.name} {settings} --base-dir".split()
    here = config.parent
    return subprocess.run(
        [*command, str(here)], cwd=here, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
