"""A training run in miniature, for trials in which much goes wrong.

It writes all that a real run writes (run directory, metrics, lineage, checkpoints, retention) with a model of two
thousand weights, so that a trial takes some 50 ms. The scripts beside this file import it, torch included, once and try
every fault in a fork; the tests reach it through their fixture `harness`.
"""

import contextlib
import gc
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo  # torch.optim imports it at first use, which would cost every fork three seconds
from torch import nn

from foundry_config import (
    DataConfig,
    ExperimentConfig,
    LoggingConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)
from foundry_config.errors import FoundryError
from foundry_data.fs import Backend
from foundry_train.checkpointing import CheckpointManager
from foundry_train.metrics_log import read_metrics
from foundry_train.run_dir import RunDirectory
from foundry_train.safetensors_writer import weights_digest
from foundry_train.state import TrainState

VOCAB, LENGTH, BATCH = 32, 8, 4


class Variant(NamedTuple):
    """How a miniature run trains and saves."""

    steps: int = 4
    save_every: int = 1
    milestones: tuple[int, ...] = (2,)
    dropout: float = 0.1
    accumulation: int = 1
    precision: str = "fp32"
    optimizer: str = "adamw"
    background: bool = False
    keep: int = 2


PLAIN = Variant()


class Outcome(NamedTuple):
    """What must be equal, bit for bit, however often a run was interrupted."""

    steps: list[tuple[int, str, str]]
    """Step, loss and gradient norm, as hexadecimal floats."""
    weights: str
    saved: list[int]


def config_for(variant: Variant, name: str = "run") -> ExperimentConfig:
    return ExperimentConfig(
        experiment_name="tiny",
        data=DataConfig(source_corpus="none", batch_size=BATCH, max_sequence_length=LENGTH),
        tokenizer=TokenizerConfig(vocab_size=1000),
        model=ModelConfig(layers=1, embedding_size=16, hidden_size=16, intermediate_hidden_size=32, attention_heads=1),
        training=TrainingConfig(
            output_dir=name,
            learning_rate=1e-2,
            train_steps=variant.steps,
            keep_checkpoints=variant.keep,
            async_save=variant.background,
        ),
        logging=LoggingConfig(),
    )


def make_model(variant: Variant) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(VOCAB, 16), nn.Linear(16, 32), nn.GELU(), nn.Dropout(variant.dropout), nn.Linear(32, VOCAB)
    )


class Group:
    """Several optimizers that update a model together."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers


def make_optimizer(variant: Variant, model: nn.Module) -> Any:
    parameters = list(model.parameters())
    if variant.optimizer == "muon":
        hidden, rest = [model[1].weight], [p for p in parameters if p is not model[1].weight]
        return Group([torch.optim.Muon(hidden, lr=1e-2), torch.optim.AdamW(rest, lr=1e-2, fused=True)])
    if variant.optimizer == "sgd":
        return Group([torch.optim.SGD(parameters, lr=1e-2, momentum=0.9)])
    if variant.optimizer == "adafactor":
        return Group([torch.optim.Adafactor(parameters, lr=1e-2)])
    return Group([torch.optim.AdamW(parameters, lr=1e-2, fused=True)])


def autocast(variant: Variant) -> contextlib.AbstractContextManager[object]:
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if variant.precision not in dtypes:
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=dtypes[variant.precision])


def update(
    model: nn.Module, optimizer: Any, scaler: torch.amp.GradScaler, variant: Variant, step: int
) -> tuple[float, float]:
    """One optimizer step on the batch of `step`; returns loss and gradient norm."""
    generator = torch.Generator().manual_seed(1000 + step)
    batch = torch.randint(0, VOCAB, (BATCH, LENGTH), generator=generator)  # [B, T]
    for parameter in model.parameters():
        parameter.grad = None
    total = 0.0
    for micro in batch.tensor_split(variant.accumulation):
        with autocast(variant):
            logits = model(micro)  # [B, T, V]
        loss_sum = nn.functional.cross_entropy(logits.float().flatten(0, 1), micro.flatten(), reduction="sum")
        loss = loss_sum / batch.numel()
        scaler.scale(loss).backward()
        total += loss.item()
    for member in optimizer.optimizers:
        scaler.unscale_(member)
        for group in member.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 3)
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    for member in optimizer.optimizers:
        scaler.step(member)
    scaler.update()
    return total, norm


def train(
    root: Path,
    variant: Variant = PLAIN,
    *,
    stop_at: int | None = None,
    manager_class: Callable[..., Any] = CheckpointManager,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Run, or go on with, the miniature run in `root`/run until its end or `stop_at`."""
    config = config_for(variant)
    with RunDirectory.open(root / "run", config) as run:
        run.bind(data_digest="sha256:data", tokenizer_digest="sha256:tokenizer")
        manager = manager_class(config, root, "commit")
        manager.set_identity(run_id=run.run_id, attempt=run.attempt, listener=run, fingerprint={"torch": "x"})
        manager.clean_up()
        model = make_model(variant)
        optimizer = make_optimizer(variant, model)
        scaler = torch.amp.GradScaler("cpu", enabled=variant.precision == "fp16", init_scale=2.0**20, growth_interval=2)
        full = [info for info in manager.list() if info.kind != "weights"]
        state = manager.restore(model, optimizer, scaler) if full else TrainState()
        run.start_attempt(from_step=state.step if full else None)
        run.truncate_metrics(state.step)
        for step in range(state.step, variant.steps if stop_at is None else stop_at):
            loss, norm = update(model, optimizer, scaler, variant, step)
            state.step = step + 1
            run.append_metrics({"kind": "step", "step": state.step, "loss": loss.hex(), "norm": norm.hex()})
            run.made_progress()
            on_step(state.step)
            _save_if_due(manager, model, optimizer, scaler, state, variant)
        manager.wait()
        manager.raise_pending()
        run.update_status(phase="done", step=state.step)
    (root / "done.json").write_text(json.dumps({"weights": weights_digest(dict(model.state_dict()))}))


def _save_if_due(
    manager: Any, model: nn.Module, optimizer: Any, scaler: Any, state: TrainState, variant: Variant
) -> None:
    details = {"global_step": state.step, "state": state, "scaler": scaler}
    manager.raise_pending()
    if state.step in variant.milestones:
        manager.save_async(model, None, optimizer, kind="weights", label=f"m{state.step}", **details)
    elif state.step % variant.save_every == 0:
        manager.save_async(model, None, optimizer, **details)


def outcome_of(root: Path) -> Outcome:
    """Read what a finished run left."""
    records = read_metrics(root / "run" / "metrics.jsonl")
    steps = [(record["step"], record["loss"], record["norm"]) for record in records]
    saved = sorted(int(path.name.removeprefix("step-")) for path in (root / "run/checkpoints").glob("step-*"))
    return Outcome(steps, json.loads((root / "done.json").read_text())["weights"], saved)


class FailingDisk(Backend):
    """A disk of which one operation fails, the first `times` times."""

    def __init__(self, operation: str, code: int, *, times: int = 10**9) -> None:
        self.left = times
        real = getattr(super(), operation)

        def failing(*arguments: Any) -> Any:
            if self.left:
                self.left -= 1
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        setattr(self, operation, failing)


class Small:
    """A model, its optimizer, and a manager of their checkpoints."""

    def __init__(self, root: Path, **variant: Any) -> None:
        self.root = root
        self.variant = Variant(**variant)
        self.model: nn.Module = make_model(self.variant)
        self.optimizer = make_optimizer(self.variant, self.model)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.manager = self.new_manager()

    def new_manager(self) -> CheckpointManager:
        return CheckpointManager(config_for(self.variant), self.root, "abc123")

    def update(self, step: int) -> None:
        update(self.model, self.optimizer, self.scaler, self.variant, step)

    def save(self, step: int, **details: Any) -> Path:
        details = {"global_step": step, "state": TrainState(step=step)} | details
        return self.manager.save_checkpoint(self.model, None, self.optimizer, **details)

    def save_async(self, step: int, **details: Any) -> None:
        details = {"global_step": step, "state": TrainState(step=step)} | details
        self.manager.save_async(self.model, None, self.optimizer, **details)

    def digest(self) -> str:
        return weights_digest(dict(self.model.state_dict()))

    def steps(self) -> list[int]:
        return [info.step for info in self.manager.list()]

    def quarantined(self) -> list[str]:
        shelf = self.manager.checkpoints / ".quarantine"
        return sorted(path.name for path in shelf.iterdir()) if shelf.is_dir() else []


def scratch_root() -> Path:
    """Memory if there is some: a kill leaves the page cache alone, so a disk would only make it slower."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and os.access(shm, os.W_OK) else Path(tempfile.gettempdir())


def in_fork(work: Callable[[], None]) -> int:
    """Run `work` in a child; returns 0, the exit code of its error, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            torch.set_num_threads(1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            code = 0
        except FoundryError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_process(work: Callable[[], None]) -> int:
    """Run `work` here, at half the cost of a fork; returns what `in_fork` would, for work that ends by itself."""
    try:
        work()
    except FoundryError as error:
        return error.exit_code
    except Exception:
        return 70
    return 0


def warm_up() -> None:
    """Load and build at once what is loaded and built at first use, so that no fork has to; then keep it shared."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        train(Path(scratch))
    gc.freeze()
