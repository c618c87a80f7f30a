"""What needs processes of its own: ranks that share a checkpoint, and a run that is watched for unpickling."""

from collections.abc import Callable
from typing import Any

import pytest

Scripts = Callable[[list[list[str]]], list[dict[str, Any]]]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_restore_one_checkpoint_and_each_its_own_generators(run_scripts: Scripts) -> None:
    [found] = run_scripts([["rank_trials.py"]])

    for rank in found["ranks"]:
        assert (rank["step"], rank["own generators"], rank["weights"]) == (1, True, True)
        assert rank["refused"].startswith("7: ")
        assert rank["nothing left"].startswith("4: ")
    assert "No space left on device" in found["ranks"][0]["refused"]
    assert "rank 0 could not save" in found["ranks"][1]["refused"]


@pytest.mark.slow
def test_nothing_is_unpickled_and_no_planted_file_runs(run_scripts: Scripts) -> None:
    [found] = run_scripts([["audit_trial.py"]])

    assert found["unpickled"] == []
    assert found["fired"] is False
    for name in ("pytorch_model.bin", "training_state.pt", ".metadata", "optimizer.pkl", "modeling_evil.py"):
        assert f"step-00000002/{name}" in found["named"]
