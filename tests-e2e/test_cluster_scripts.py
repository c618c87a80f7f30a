"""`docs/cluster.md`: its batch scripts with stand-ins for Slurm's own commands, its several processes for real."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "docs" / "slurm").glob("*.sbatch"))


def run_script(script: Path, folder: Path, *, exit_code: int) -> tuple[int, str]:
    """Run a batch script with an `srun` that ends with `exit_code`; return its exit code and what it asked of Slurm."""
    log = folder / "log"
    for name, body in (
        ("srun", f'echo "srun $*" >> {log}; exit {exit_code}'),
        ("scontrol", f'echo "scontrol $*" >> {log}'),
    ):
        tool = folder / name
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
    variables = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_TASK_COUNT": "16",
    }
    result = subprocess.run(["bash", script, "my.yaml"], env=variables, capture_output=True, text=True, check=False)
    return result.returncode, log.read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("code", [130, 138, 140, 143])
def test_a_run_that_was_stopped_and_saved_is_queued_again(script, code, tmp_path):
    ended, asked = run_script(script, tmp_path, exit_code=code)

    assert ended == code
    assert "scontrol requeue 7" in asked


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 6, 7, 8, 9, 70])
def test_a_run_that_is_done_or_failed_is_not(script, code, tmp_path):
    ended, asked = run_script(script, tmp_path, exit_code=code)

    assert ended == code
    assert "scontrol" not in asked
    assert "my.yaml" in asked


@pytest.mark.slow
@pytest.mark.distributed
def test_several_processes_of_one_machine_train_as_one_does(make_experiment, foundry, tmp_path):
    config = make_experiment(tmp_path)
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    written = re.search(r"torchrun (.*) foundry train experiment.yaml", text)
    assert written is not None
    command = f"torchrun {written[1].replace('4', '2')} foundry train".split()
    tools = Path(sys.executable).parent
    variables = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    two = [*command, str(config), "--base-dir", str(tmp_path), "--set", "training.output_dir=runs/two"]
    done = subprocess.run(two, env=variables, capture_output=True, text=True, check=False)
    one = foundry("train", config, "--base-dir", tmp_path)

    assert (done.returncode, one.code) == (0, 0), done.stderr[-2000:]
    assert done.stderr.count("saved step-00000010") == done.stdout.count("10 of 10 steps") == 1
    losses = [_losses(tmp_path / "runs" / name) for name in ("two", "tiny")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 10


@pytest.mark.slow
@pytest.mark.distributed
def test_several_processes_that_ran_out_of_time_are_queued_again_until_they_are_done(make_experiment, tmp_path):
    make_experiment(tmp_path).rename(tmp_path / "experiment.yaml")
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    written = re.search(r"(torchrun .* --stop-after 3h50m \|\|\n.*scontrol requeue .*)\n", text)
    assert written is not None
    script = written[1].replace("per-node 4", "per-node 2").replace("runs/experiment", "runs/tiny")
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$*" >> asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "7"}

    for time, state in (("0s", "stopped"), ("1d", "done")):
        command = ["bash", "-c", script.replace("3h50m", time)]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads((tmp_path / "runs" / "tiny" / "status.json").read_text())["phase"] == state
    assert (tmp_path / "asked").read_text() == "requeue 7\n"


def _losses(run: Path) -> list[float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["kind"] == "step"]
