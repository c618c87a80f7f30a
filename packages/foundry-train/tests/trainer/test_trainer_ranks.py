"""Whole runs on two ranks: the losses of one process, a stop of one is a stop of all, a change of number is a drift."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from foundry_config import canonical_json, parse_config
from foundry_config.errors import ConfigError, FoundryError
from foundry_train import Hook, Moment, Trainer
from foundry_train.distributed import World
from foundry_train.process_setup import check_ranks

RANKS = 2
CASES: dict[str, dict[str, Any]] = {
    "whole": {},
    "stopped": {"signal": True},
    "stopped, again": {"run": "stopped"},
    "begun alone": {},
    "begun alone, drift": {"run": "begun alone", "allow_numeric_drift": True},
}


class SignalRank1(Hook):
    """Sends a signal to the other rank, and to no other process."""

    def __init__(self, pid: Path) -> None:
        self.pid = int(pid.read_text())

    def on_step(self, moment: Moment) -> None:
        if moment.step == 5:
            os.kill(self.pid, signal.SIGUSR1)


def train_cases(rank: int, folder: Path) -> None:
    """Train every case on this rank; writes what it came to."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(folder / "project"))
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_RANK=str(rank))
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    dist.barrier()
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        config = parse_config((folder / f"{case.get('run', name)}.json").read_text(), name="case.json")
        hooks = [SignalRank1(folder / "1.pid")] if case.get("signal") else []
        drift = case.get("allow_numeric_drift", False)
        trainer = Trainer(config, folder / "project", console=None, hooks=hooks, allow_numeric_drift=drift)
        try:
            summary = trainer.train()
            results[name] = [summary.exit_code, summary.steps, summary.resumed_from]
        except FoundryError as error:
            results[name] = [error.exit_code, str(error)]
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_train_stop_and_go_on_together_and_their_number_is_part_of_the_numeric_fingerprint(
    project, read, tmp_path, stop_at
):
    (tmp_path / "project").symlink_to(project.folder)
    changes = {"model": {"dropout": 0.0}}
    for name, case in CASES.items():
        if "run" not in case:
            config = project.config(tmp_path / name.replace(" ", "-"), changes=changes, save_every_steps=4)
            (tmp_path / f"{name}.json").write_bytes(canonical_json(config))
    alone = project.train(project.config(tmp_path / "alone", changes=changes))
    begun = project.config(tmp_path / "begun-alone", changes=changes, save_every_steps=4)
    project.train(begun, hooks=[stop_at(6)])

    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=240)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(RANKS))

    assert first["whole"] == second["whole"] == [0, 12, None]
    assert first["stopped"][:2] == second["stopped"][:2] == [128 + signal.SIGUSR1, first["stopped"][1]]
    assert 5 <= first["stopped"][1] < 12
    assert first["stopped, again"] == second["stopped, again"] == [0, 12, first["stopped"][1]]
    for each in (first, second):
        code, message = each["begun alone"]
        assert code == 5 and "world_size: 1 -> 2" in message
        assert each["begun alone, drift"] == [0, 12, 6]
    expected = losses(read, alone.run_dir)
    for run in ("whole", "stopped", "begun-alone"):
        assert losses(read, tmp_path / run) == pytest.approx(expected, rel=1e-5)
    assert losses(read, tmp_path / "stopped") == losses(read, tmp_path / "whole")
    for rank in range(RANKS):
        logs = (tmp_path / "whole" / "logs").glob("*.log")
        assert any(f"rank {rank} of 2 on cpu" in log.read_text() for log in logs)
    assert '"world_size":2' in (tmp_path / "begun-alone/lineage.jsonl").read_text()


def losses(read: Any, run: Path) -> list[float]:
    return [record["loss"] for record in read.records(run, "step")]


def test_a_number_of_ranks_that_does_not_divide_the_batch_is_refused(project, tmp_path):
    config = project.config(tmp_path / "run")

    with pytest.raises(ConfigError, match=r"data\.batch_size: 8 sequences cannot be shared evenly by 3 ranks"):
        check_ranks(config, World(0, 3, torch.device("cpu")))
    for size in (1, 2, 4, 8):
        check_ranks(config, World(0, size, torch.device("cpu")))


if __name__ == "__main__":
    import torch._dynamo  # by the first optimizer otherwise, on every rank

    # forked from a fresh process: the one of the tests may have threads that a fork does not survive
    mp.start_processes(train_cases, args=(Path(sys.argv[1]),), nprocs=RANKS, start_method="fork")
