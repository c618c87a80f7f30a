"""Mirrors of metrics.jsonl: Weights & Biases, TensorBoard, or a user's own. None of them can stop or change a run.

    loop -> write(record) -> [bounded queue] -> thread: open the sink, write, close

Each sink lives in a thread of its own. Opening it (`wandb.init` may wait for a network) costs the training thread
nothing; a sink that raises is closed with one warning; one that is slower than training loses records, which are
counted; one that hangs is left behind after `CLOSE_SECONDS`. metrics.jsonl has everything.

A user's sink, named in `logging.sinks` as `"module:function"`, is called as `function(run)` and returns an object with
the methods of `Sink`.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from foundry_config import LoggingConfig
from foundry_config.errors import ConfigError
from foundry_config.lookup import pick

logger = logging.getLogger(__name__)

QUEUE_RECORDS = 10_000
CLOSE_SECONDS = 60.0
OPEN_SECONDS = 30.0


class SinkRun(NamedTuple):
    """What a sink needs to know about the run."""

    run_id: str
    name: str
    directory: Path
    config: dict[str, Any]
    step: int
    """Updates completed when this process starts; steps above it will be written again."""
    project: str
    mode: str
    """`offline` or `online`."""


class Sink(Protocol):
    """Receives every record of metrics.jsonl, in its own thread."""

    def write(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


SinkFactory = Callable[[SinkRun], Sink]


class BackgroundSink:
    """A sink in a thread, which can fail, lag or hang without anyone waiting for it."""

    def __init__(self, name: str, factory: SinkFactory, run: SinkRun, *, capacity: int = QUEUE_RECORDS) -> None:
        """
        Args:
            name: For messages.
            factory: Called in the thread.
            run: Given to `factory`.
            capacity: Records that may wait.
        """
        self.name = name
        self.dropped = 0
        """Records that found the queue full."""
        self.failure: str | None = None
        self._records: queue.Queue[Mapping[str, Any] | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._work, args=(factory, run), name=f"sink-{name}", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, Any]) -> None:
        """Hand a record over; never waits, never raises."""
        if self.failure is not None:
            return
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Let the sink finish; leave it behind if it does not within the time."""
        try:
            self._records.put(None, timeout=timeout_seconds)
            self._thread.join(timeout_seconds)
        except queue.Full:
            pass
        if self._thread.is_alive() and self.failure is None:
            logger.warning("%s did not finish within %.0f s and was left behind", self.name, timeout_seconds)
        if self.dropped:
            logger.warning("%s was too slow: %d records are only in metrics.jsonl", self.name, self.dropped)

    def _work(self, factory: SinkFactory, run: SinkRun) -> None:
        try:
            sink = factory(run)
            while (record := self._records.get()) is not None:
                sink.write(record)
            sink.close()
        except BaseException as error:  # a third party's code, which may even call sys.exit
            self.failure = f"{type(error).__name__}: {error}"
            logger.warning("%s failed and is switched off; metrics.jsonl goes on (%s)", self.name, self.failure)


def open_sinks(config: LoggingConfig, run: SinkRun) -> list[BackgroundSink]:
    """Start the sinks that the config asks for.

    Raises:
        ConfigError: A sink of `logging.sinks` does not exist.
    """
    return [BackgroundSink(name, factory, run) for name, factory in sink_factories(config)]


def sink_factories(config: LoggingConfig) -> list[tuple[str, SinkFactory]]:
    """Look up the sinks that the config asks for, by name.

    Raises:
        ConfigError: As `open_sinks`.
    """
    names = ["wandb"] * config.use_wandb + ["tensorboard"] * config.use_tensorboard + list(config.sinks)
    return [(name, pick(name, SINKS, kind="sink")) for name in names]


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The plottable values of a record, named for a dashboard.

    >>> numbers({"kind": "step", "step": 3, "loss": 2.5, "time": 1.0, "mfu": None})
    {'train/loss': 2.5}
    >>> numbers({"kind": "evaluation", "step": 3, "suite": "test", "perplexity": 9.0})
    {'evaluation/test/perplexity': 9.0}
    """
    kind = record.get("kind")
    if kind == "step":
        prefix = "train"
    elif kind == "evaluation":
        prefix = "/".join(["evaluation", *(str(record[key]) for key in ("suite", "item") if key in record)])
    else:
        return {}
    return {
        f"{prefix}/{key}": float(value)
        for key, value in record.items()
        if key not in {"step", "time", "attempt"} and isinstance(value, int | float) and not isinstance(value, bool)
    }


class WandbSink:
    """Weights & Biases: one run id for all resumes, `step` as the axis of every chart."""

    def __init__(self, run: SinkRun) -> None:
        try:
            import wandb  # optional extra; 1 to 3 s, here in the sink's thread
        except ImportError as error:
            raise ConfigError("logging.use_wandb needs the extra: foundry-train[wandb]") from error
        self._wandb = wandb
        settings = wandb.Settings(
            init_timeout=OPEN_SECONDS,
            console="off",
            silent=True,
            disable_git=True,  # the environment snapshot has it
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,  # would copy the command line as it is, secrets included
        )
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.run_id,
            resume="allow",
            mode=run.mode,  # type: ignore[arg-type]  (a Literal there)
            dir=str(run.directory),
            config=run.config,
            settings=settings,
        )
        self._run.define_metric("step")
        # An axis of our own, because W&B drops what is logged at an internal step that it has already seen, as the
        # steps between the last checkpoint and a crash would be.
        self._run.define_metric("*", step_metric="step")

    def write(self, record: Mapping[str, Any]) -> None:
        values: dict[str, Any] = dict(numbers(record))
        if record.get("kind") == "sample":
            values["sample"] = self._wandb.Html(f"<pre>{_escape(str(record['text']))}</pre>")
        if values:
            self._run.log(values | {"step": record["step"]})

    def close(self) -> None:
        self._run.finish()


class TensorBoardSink:
    """TensorBoard event files in `<run>/tensorboard`; steps that a resume repeats replace the earlier ones."""

    def __init__(self, run: SinkRun) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # optional extra
        except ImportError as error:
            raise ConfigError("logging.use_tensorboard needs the extra: foundry-train[tensorboard]") from error
        purge_step = run.step + 1 if run.step else 0  # a run that is begun anew repeats all of them
        self._writer = SummaryWriter(str(run.directory / "tensorboard"), purge_step=purge_step)

    def write(self, record: Mapping[str, Any]) -> None:
        for name, value in numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])
        if record.get("kind") == "sample":
            self._writer.add_text("sample", str(record["text"]), record["step"])

    def close(self) -> None:
        self._writer.close()


def close_sinks(sinks: Iterable[BackgroundSink]) -> None:
    """Close every sink."""
    for sink in sinks:
        sink.close()


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


SINKS: dict[str, SinkFactory] = {"wandb": WandbSink, "tensorboard": TensorBoardSink}
