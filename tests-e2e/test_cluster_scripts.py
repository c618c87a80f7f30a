"""The batch scripts of `docs/slurm`, run by bash with stand-ins for Slurm's own commands."""

import os
import subprocess
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
