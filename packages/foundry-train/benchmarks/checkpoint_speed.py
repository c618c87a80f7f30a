"""Compare the speed of saving and loading a checkpoint with that of peers, as ratios within one run on one machine.

    uv run python packages/foundry-train/benchmarks/checkpoint_speed.py                       # tiny: seconds
    uv run python packages/foundry-train/benchmarks/checkpoint_speed.py --shape 124m --rounds 7

All save the same state: weights and both moments of AdamW. Rounds go through every way in turn, so that a machine that
gets warmer or busier does so for all, and the median counts. Nothing else should run on the machine.

    durable     until the bytes survive a power cut: peers end with an fsync of every file and of the folder, ours has
                hashed and checked everything too
    blocked     how long the caller of `save_async` waits
    loading     into a model and an optimizer that exist; peers hash the files too where ours does
    in a loop   what a save adds to the steps of a training that saves every few steps, beside one that does not
    memory      peak of a process that resumes, beside one that begins afresh
"""

import argparse
import functools
import hashlib
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from shapes import SHAPES, device_of
from transformers.utils.logging import disable_progress_bar
from workload import make_config, random_batches

from foundry_config import ExperimentConfig, replace_fields
from foundry_model import create_model
from foundry_train import CheckpointManager
from foundry_train.memory import memory_use
from foundry_train.snapshot import SnapshotBuffers
from foundry_train.tensor_tree import export_optimizer

Seconds = dict[str, list[float]]
ROLES = ("fresh", "resume")


class State:
    """A model whose optimizer has moments, and a folder to save it in."""

    def __init__(self, shape_name: str, folder: Path) -> None:
        self.shape = SHAPES[shape_name]
        self.device = torch.device(device_of(shape_name))
        self.folder = folder
        config = make_config(shape_name, self.shape, folder, steps=10**6, compile_mode="off", run="run")
        self.config: ExperimentConfig = replace_fields(config, {"training.async_save": True})
        torch.manual_seed(0)
        self.model = create_model(self.config, device=self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.batches = random_batches(self.shape)
        self.manager = CheckpointManager(self.config, folder)

    def step(self, number: int) -> None:
        """One update, which also makes the moments."""
        ids = self.batches[number % len(self.batches)].to(self.device)
        self.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a checkpoint holds in tensors, each once, as every peer saves it."""
        moments = export_optimizer(self.model, self.optimizer).tensors
        return dict(self.model.named_parameters()) | {f"optimizer {name}": tensor for name, tensor in moments.items()}

    def fresh_folder(self, name: str) -> Path:
        """An empty folder; what was in it before is removed."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["tiny"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=10, help="steps between two saves of the loop")
    parser.add_argument("--folder", type=Path, default=None, help="where to save: a folder on the disk to be measured")
    parser.add_argument("--role", choices=ROLES, default=None, help=argparse.SUPPRESS)
    task = parser.parse_args()
    if task.rounds < 1 or task.every < 1:
        parser.error("--rounds and --every must be at least 1")
    logging.disable(logging.WARNING)
    disable_progress_bar()
    if task.role:
        print(json.dumps(peak_of(task.role, task.shape[0], task.folder)))
        return
    for name in task.shape:
        with tempfile.TemporaryDirectory(dir=task.folder) as folder:
            measure(name, Path(folder), task.rounds, task.every)


def measure(name: str, folder: Path, rounds: int, every: int) -> None:
    """Measure one shape and print its tables."""
    if SHAPES[name].threads:
        torch.set_num_threads(SHAPES[name].threads)
    state = State(name, folder)
    state.step(0)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.tensors().values())
    print(f"\n{name}: {size / 1e6:,.1f} MB of weights and moments, torch {torch.__version__}, {state.device}")
    saving, loading = measure_files(state, rounds)
    show("saving", saving, beside="safetensors", only=tuple(SAVERS))
    show("blocked", saving, beside="plain copy", only=("plain copy", "foundry, blocked by save_async"))
    print(row("", f"{share(saving):.1f}% of our durable save"))
    show("loading", loading, beside="safetensors + SHA-256", only=tuple(LOADERS))
    show_loop(state, rounds, every)
    show_memory(name, folder)


def measure_files(state: State, rounds: int) -> tuple[Seconds, Seconds]:
    """Save and load in every way, round after round; the first round warms up and does not count."""
    saving: Seconds = {}
    loading: Seconds = {}
    buffers = SnapshotBuffers()
    for number in range(1, rounds + 2):
        for name, save in SAVERS.items():
            saving.setdefault(name, []).append(timed(functools.partial(save, state, number)))
        saving.setdefault("plain copy", []).append(timed(lambda: buffers.copy(state.tensors())))
        save_async = functools.partial(state.manager.save_async, state.model, None, state.optimizer)
        blocked = timed(functools.partial(save_async, global_step=10**6 + number))
        saving.setdefault("foundry, blocked by save_async", []).append(blocked)
        state.manager.wait()
        state.manager.raise_pending()
        for name, load in LOADERS.items():
            loading.setdefault(name, []).append(timed(functools.partial(load, state)))
    return without_first(saving), without_first(loading)


def without_first(seconds: Seconds) -> Seconds:
    """Leave out the round in which memory and code were new."""
    return {name: values[1:] for name, values in seconds.items()}


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def save_foundry(state: State, step: int) -> None:
    """`CheckpointManager.save_checkpoint`: checked, hashed, published, synced."""
    state.manager.save_checkpoint(state.model, None, state.optimizer, global_step=step)


def save_safetensors(state: State, step: int) -> None:
    """The same tensors in one file, in place."""
    folder = state.fresh_folder("safetensors")
    save_file({name: tensor.detach().cpu() for name, tensor in state.tensors().items()}, folder / "all.safetensors")
    sync(folder)


def save_torch(state: State, step: int) -> None:
    """`torch.save` of both state dictionaries, in place."""
    folder = state.fresh_folder("torch")
    torch.save({"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}, folder / "all.pt")
    sync(folder)


def save_hugging_face(state: State, step: int) -> None:
    """What `transformers.Trainer` writes: the model's folder, and the optimizer by `torch.save`."""
    folder = state.fresh_folder("hugging-face")
    state.model.save_pretrained(folder)  # type: ignore[operator]
    torch.save(state.optimizer.state_dict(), folder / "optimizer.pt")
    sync(folder)


def sync(folder: Path) -> None:
    """Force everything in `folder`, and the folder, to the disk."""
    for path in [*folder.iterdir(), folder]:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def load_foundry(state: State) -> None:
    """`CheckpointManager.restore`: every byte proven against the manifest."""
    state.manager.restore(state.model, state.optimizer)


def load_safetensors(state: State) -> None:
    """Load the file, hash it, copy it into the tensors."""
    path = state.folder / "safetensors" / "all.safetensors"
    loaded = load_file(path)
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    with torch.no_grad():
        for name, tensor in state.tensors().items():
            tensor.copy_(loaded[name])


def load_torch(state: State) -> None:
    """Load both state dictionaries, unproven."""
    loaded = torch.load(state.folder / "torch" / "all.pt", weights_only=True)
    state.model.load_state_dict(loaded["model"])
    state.optimizer.load_state_dict(loaded["optimizer"])


SAVERS = {
    "foundry": save_foundry,
    "safetensors": save_safetensors,
    "torch.save": save_torch,
    "as HF Trainer": save_hugging_face,
}
LOADERS = {"foundry": load_foundry, "safetensors + SHA-256": load_safetensors, "torch.load": load_torch}


def show_loop(state: State, rounds: int, every: int) -> None:
    """Train with and without saves in turn; print what a save costs the loop."""
    steps, saves = 2 * every, 2
    seconds: Seconds = {"without": [], "async": [], "blocking": []}
    number = 10**7
    for _ in range(rounds + 1):
        for way, found in seconds.items():
            state.manager.wait()
            started = time.perf_counter()
            for step in range(1, steps + 1):
                state.step(step)
                if way == "without" or step % every:
                    continue
                number += 1
                save = state.manager.save_async if way == "async" else state.manager.save_checkpoint
                save(state.model, None, state.optimizer, global_step=number)
            found.append(time.perf_counter() - started)
    state.manager.wait()
    bare = median(without_first(seconds)["without"])
    print(f"\nlost for each save in a loop of {1000 * bare / steps:.1f} ms a step, a save every {every} steps")
    for way in ("async", "blocking"):
        lost = (median(seconds[way][1:]) - bare) / saves
        slower = 100 * lost / (every * bare / steps)
        print(row(f"{way} save", f"{1000 * lost:.1f} ms", f"+{slower:.1f}% time"))


def show_memory(name: str, folder: Path) -> None:
    """Peak memory of a fresh start and of a resume, each in a process of its own."""
    peaks: dict[str, float] = {}
    for role in ROLES:
        command = [sys.executable, __file__, "--role", role, "--shape", name, "--folder", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last_line = (done.stderr.strip().splitlines() or ["no output"])[-1]
            print(f"memory of {role}: failed, {last_line}", file=sys.stderr)
            return
        peaks[role] = json.loads(done.stdout.splitlines()[-1])
    print("\npeak memory of a process")
    for role, peak in peaks.items():
        print(row(role, f"{peak / 2**20:,.0f} MiB", f"x{peak / peaks['fresh']:.2f}"))


def peak_of(role: str, name: str, folder: Path) -> int:
    """Begin afresh or resume, make two updates, and return the peak memory. [bytes]"""
    if SHAPES[name].threads:
        torch.set_num_threads(SHAPES[name].threads)
    state = State(name, folder)
    if role == "resume":
        state.manager.restore(state.model, state.optimizer)
    for step in range(2):
        state.step(step)
    return memory_use(state.device).peak


def show(title: str, seconds: Seconds, *, beside: str, only: tuple[str, ...]) -> None:
    """Print a table; ratios are to `beside`, of which less is faster."""
    base = median(seconds[beside])
    print(f"\n{title}")
    for name in only:
        value = median(seconds[name])
        print(row(name, f"{1000 * value:,.1f} ms", f"x{value / base:.2f}"))


def share(saving: Seconds) -> float:
    """Time blocked by an asynchronous save as a share of a save that is waited for. [percent]"""
    return 100 * median(saving["foundry, blocked by save_async"]) / median(saving["foundry"])


def row(first: str, *columns: str) -> str:
    """One line of a table."""
    return f"  {first:32}" + "".join(f"{column:>16}" for column in columns)


def median(values: list[float]) -> float:
    """The middle value. [seconds]"""
    return statistics.median(values)


if __name__ == "__main__":
    main()
