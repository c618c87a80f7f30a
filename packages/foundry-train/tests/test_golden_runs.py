"""Runs that earlier versions wrote can be verified and gone on with.

`golden/run-N` was written by the first version whose checkpoints had the format N, with a model of two layers, and is
never made anew: what cannot read it any more cannot read what users have on their disks. For a new format, add a run.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from foundry_config import ExperimentConfig, config_from_dict
from foundry_train.checkpointing import CheckpointManager
from foundry_train.manifest import FORMAT
from foundry_train.run_dir import RunDirectory
from foundry_train.safetensors_writer import weights_digest
from foundry_train.state import TrainState
from foundry_train.tensor_tree import export_optimizer
from foundry_train.verify import verify_run

GOLDEN = Path(__file__).parent / "golden"
RUNS = sorted(path.name for path in GOLDEN.glob("run-*"))
WEIGHTS = "sha256:4d5ee9f1a7c3aac4346868bc51d45e510a5d033f3fa99c1b5986adeba3b7cccb"
MOMENT = 0.0035601716954261065


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "run"))


def config_of(run: Path) -> ExperimentConfig:
    return config_from_dict(json.loads((run / "config.json").read_bytes()))


def test_every_format_has_its_run() -> None:
    assert f"run-{FORMAT.rpartition('/')[2]}" in RUNS


def test_a_run_of_an_earlier_version_is_sound(run: Path) -> None:
    report = verify_run(run)

    assert report.findings == () and report.checkpoints == 2


def test_a_run_of_an_earlier_version_is_gone_on_with_exactly(run: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    config = config_of(run)

    with RunDirectory.open(run, config) as directory:
        directory.bind(data_digest="sha256:data", tokenizer_digest="sha256:tokenizer")
        manager = CheckpointManager(config, run.parent)
        manager.set_identity(run_id=directory.run_id, attempt=directory.attempt, listener=directory)
        state = manager.restore(model, optimizer)

        assert (directory.attempt, directory.changes) == (2, [])
        assert state == TrainState(
            step=3, epoch=1, position=6, sequences=6, tokens=24, words=15, loss_ema=2.5, micro_batch=2
        )
        assert weights_digest(dict(model.state_dict())) == WEIGHTS
        moments = export_optimizer(model, optimizer).tensors
        assert moments["1.bias::exp_avg"][0].item() == MOMENT and moments["1.bias::step"].item() == 3
        assert optimizer.param_groups[0]["lr"] == 0.01

        again = manager.save_checkpoint(model, None, optimizer, global_step=3, state=state)

    assert again == run / "checkpoints/step-00000003" and not (run / "checkpoints/.quarantine").exists()
