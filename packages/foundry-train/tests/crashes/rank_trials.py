"""Two ranks save, are spoiled, and restore: each gets its own generators back, both the same checkpoint.

python rank_trials.py            prints one line of JSON
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from harness import PLAIN, FailingDisk, config_for, make_model, make_optimizer, scratch_root, update, warm_up

from foundry_config.errors import FoundryError
from foundry_data import fs
from foundry_train.checkpointing import CheckpointManager
from foundry_train.safetensors_writer import weights_digest
from foundry_train.state import TrainState

RANKS = 2


def rank_main(rank: int, base: Path) -> dict[str, Any]:
    dist.init_process_group("gloo", init_method=f"file://{base / 'rendezvous'}", rank=rank, world_size=RANKS)
    manager = CheckpointManager(config_for(PLAIN), base, "commit")
    manager.set_identity(run_id="two-ranks")
    model = make_model(PLAIN)
    optimizer = make_optimizer(PLAIN, model)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    digests, draws = {}, {}
    for step in (1, 2):
        torch.manual_seed(77)
        update(model, optimizer, scaler, PLAIN, step)
        torch.manual_seed(100 * step + rank)
        manager.save_checkpoint(model, None, optimizer, global_step=step, state=TrainState(step=step))
        digests[step] = weights_digest(dict(model.state_dict()))
        draws[step] = torch.rand(1).item()
    if rank == 0:
        (manager.checkpoints / "step-00000002/trainer/optimizer.safetensors").write_bytes(b"damaged")
    dist.barrier()
    torch.manual_seed(5)
    manager.clean_up()
    state = manager.restore(model, optimizer)
    found = {
        "step": state.step,
        "own generators": torch.rand(1).item() == draws[state.step],
        "weights": weights_digest(dict(model.state_dict())) == digests[state.step],
        "refused": refused(manager, model, optimizer, rank),
    }
    manager.rewind(0)
    found["nothing left"] = message_of(lambda: manager.restore(model, optimizer))
    dist.destroy_process_group()
    return found


def refused(manager: CheckpointManager, model: torch.nn.Module, optimizer: Any, rank: int) -> str:
    """What each rank hears when the disk of rank 0 is full."""
    disk = FailingDisk("open_new", 28) if rank == 0 else fs.Backend()
    with fs.using(disk):
        return message_of(lambda: manager.save_checkpoint(model, None, optimizer, global_step=9))


def message_of(work: Any) -> str:
    try:
        work()
    except FoundryError as error:
        return f"{error.exit_code}: {error}"
    return ""


def main() -> None:
    warm_up()
    base = Path(tempfile.mkdtemp(dir=scratch_root(), prefix="foundry-ranks-"))
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            try:
                (base / f"rank-{rank}.json").write_text(json.dumps(rank_main(rank, base)))
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    try:
        ranks = [json.loads((base / f"rank-{rank}.json").read_text()) for rank in range(RANKS)]
    finally:
        shutil.rmtree(base, ignore_errors=True)
    sys.stdout.write(json.dumps({"ranks": ranks}) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
