"""A loop with everything around it, on a model of a few hundred weights and ten sequences that can be learnt."""

import hashlib
import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foundry_config import CorpusCounts, ExperimentConfig, config_from_dict, plan_training
from foundry_data.torch_loader import GlobalBatch
from foundry_model.loss import TokenLoss
from foundry_train.checkpointing import CheckpointManager
from foundry_train.distributed import World
from foundry_train.hooks import Hook, StepRecord
from foundry_train.loop import StopRequest, TrainingLoop
from foundry_train.lr_schedules import LrShape, learning_rate_function
from foundry_train.metrics_log import MetricsLog, read_metrics
from foundry_train.optimizers import make_optimizer
from foundry_train.precision import make_precision
from foundry_train.progress import PlainReporter
from foundry_train.records import RecordWriter
from foundry_train.saving import Saver
from foundry_train.state import TrainState
from foundry_train.step import Updater
from foundry_train.throughput import Throughput

CPU = torch.device("cpu")
VOCABULARY, LENGTH, ROWS = 11, 5, 10


class Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: torch.Tensor) -> Output:
        return Output(self.head(self.dropout(self.embedding(input_ids))))


class Stream(Iterator[GlobalBatch]):
    """Ten learnable sequences, four at a time: three steps an epoch, the last of them short."""

    def __init__(self, epoch: int = 0, position: int = 0) -> None:
        self.state = (epoch, position)
        starts = torch.arange(ROWS) % VOCABULARY
        self.rows = (starts[:, None] + torch.arange(LENGTH)) % VOCABULARY

    def __next__(self) -> GlobalBatch:
        epoch, position = self.state
        ids = self.rows[position : position + 4]
        end = position + len(ids)
        self.state = (epoch, end) if end < ROWS else (epoch + 1, 0)
        return GlobalBatch(
            input_ids=ids,
            labels=ids,
            position_ids=None,
            attention_mask=None,
            target_tokens=ids[:, 1:].numel(),
            sequences=len(ids),
            tokens=ids.numel(),
            words=2 * len(ids),
            sequence_ids=np.arange(position, end),
            epoch=epoch,
            position=position,
        )


def make_config(**training) -> ExperimentConfig:
    settings = {
        "output_dir": "run",
        "learning_rate": 0.05,
        "epochs": 4,
        "warmup_steps": 2,
        "async_save": False,
        "save_every_minutes": None,
    }
    return config_from_dict(
        {
            "experiment_name": "loop",
            "data": {"source_corpus": "none", "batch_size": 4, "max_sequence_length": LENGTH},
            "tokenizer": {"vocab_size": VOCABULARY, "byte_fallback": False},
            "model": {
                "layers": 1,
                "embedding_size": 8,
                "hidden_size": 8,
                "intermediate_hidden_size": 8,
                "attention_heads": 1,
            },
            "training": settings | training,
        }
    )


class Run:
    """A loop with everything around it; the parts that tests look at are attributes."""

    def __init__(
        self,
        tmp_path,
        *,
        loss: Callable[[nn.Module], Callable] = TokenLoss,
        hooks: tuple[Hook, ...] = (),
        should_stop: StopRequest | None = None,
        resume: bool = False,
        precision: str = "fp32",
        micro_batch: int = 4,
        **training,
    ) -> None:
        self.config = make_config(precision=precision, **training)
        self.plan = plan_training(self.config, CorpusCounts(ROWS, ROWS * LENGTH, 2 * ROWS))
        torch.manual_seed(1)
        self.model = TinyModel()
        self.manager = CheckpointManager(self.config, tmp_path)
        self.metrics = tmp_path / "run" / "metrics.jsonl"
        self.metrics.parent.mkdir(exist_ok=True)
        self.shown: list[StepRecord] = []
        parts = make_precision(precision, CPU)
        optimizer = make_optimizer(self.model, self.config.training, CPU)
        self.state = self.manager.restore(self.model, optimizer, parts.scaler) if resume else TrainState()
        self.stream = Stream(self.state.epoch, self.state.position)
        should_stop = should_stop or StopRequest(lambda: None)
        reporter = PlainReporter()
        reporter.step = self.shown.append
        settings = self.config.training
        shape = LrShape(settings.learning_rate, self.plan.total_steps, self.plan.warmup_steps)
        self.rate = learning_rate_function(settings.lr_schedule, shape)
        self.loop = TrainingLoop(
            plan=self.plan,
            training=settings,
            state=self.state,
            batches=self.stream,
            position=lambda: self.stream.state,
            model=self.model,
            optimizer=optimizer,
            learning_rate=self.rate,
            updater=Updater(
                loss(self.model),
                self.model,
                optimizer,
                world=World(),
                precision=parts,
                micro_batch=micro_batch,
                max_grad_norm=settings.max_grad_norm,
                should_stop=should_stop,
            ),
            saver=Saver(
                self.manager,
                self.plan,
                settings,
                model=self.model,
                tokenizer=None,
                optimizer=optimizer,
                scaler=parts.scaler,
                world=World(),
            ),
            records=RecordWriter(MetricsLog(self.metrics).append, reporter=reporter),
            throughput=Throughput(world_size=1, flops_per_token=None, peak_flops=None),
            world=World(),
            hooks=hooks,
            should_stop=should_stop,
        )

    def losses(self) -> list[str]:
        return [record.loss.hex() for record in self.shown]

    def digest(self) -> str:
        return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in self.model.parameters())).hexdigest()

    def events(self, name: str) -> list[dict]:
        return [record for record in read_metrics(self.metrics) if record.get("event") == name]


class Sabotaged:
    """A loss function that goes wrong in chosen calls."""

    def __init__(self, model: nn.Module, calls: range, what: Exception | float) -> None:
        self.inner, self.calls, self.what, self.count = TokenLoss(model), calls, what, 0

    def __call__(self, *tensors):
        self.count += 1
        loss, targets = self.inner(*tensors)
        if self.count not in self.calls:
            return loss, targets
        if isinstance(self.what, Exception):
            raise self.what
        return loss * self.what, targets


def sabotage(calls: range, what: Exception | float) -> Callable[[nn.Module], Callable]:
    return lambda model: Sabotaged(model, calls, what)


def stop_at_call(call: int) -> StopRequest:
    """A SIGTERM that is seen from the `call`-th time on that the loop asks."""
    calls = itertools.count(1)
    return StopRequest(lambda: signal.SIGTERM if next(calls) >= call else None)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Makes runs: `make_run(name, **settings)`, each name a folder of its own."""

    def make(name: str = "run", **settings: Any) -> Run:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Run(folder, **settings)

    return make


@pytest.fixture(name="sabotage")
def sabotage_fixture() -> Callable[..., Callable[[nn.Module], Callable]]:
    return sabotage


@pytest.fixture(name="stop_at_call")
def stop_at_call_fixture() -> Callable[[int], StopRequest]:
    return stop_at_call
