"""Put the loop together: stream, records, sinks, hooks, saver, updater."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from foundry_config import TrainingPlan
from foundry_data.packing import Rows
from foundry_data.processor import PreparedData
from foundry_train.build import Build, make_throughput
from foundry_train.evaluation_hook import (
    PAIRS,
    TEST,
    EvaluationHook,
    Suite,
    held_out_suite,
    minimal_pair_suite,
    text_sampler,
)
from foundry_train.held_out import held_out_of
from foundry_train.hooks import Hook, Moment
from foundry_train.loop import TrainingLoop
from foundry_train.planning import BatchSource
from foundry_train.records import RecordWriter
from foundry_train.resuming import Beginning
from foundry_train.run_dir import RunDirectory
from foundry_train.saving import Saved, Saver
from foundry_train.session import Session
from foundry_train.sinks import SinkRun, close_sinks, open_sinks
from foundry_train.step import Updater


class FirstStep(Hook):
    """Tells the run directory that the checkpoint which a start began from is a good one."""

    def __init__(self, run: RunDirectory, first_step: int) -> None:
        self._run = run
        self._first_step = first_step

    def is_due(self, step: int) -> bool:
        return step == self._first_step

    def on_step(self, moment: Moment) -> None:  # noqa: ARG002
        self._run.made_progress()


def assemble_loop(
    session: Session,
    prepared: PreparedData,
    source: BatchSource,
    plan: TrainingPlan,
    built: Build,
    beginning: Beginning,
    *,
    test_rows: Rows | None,
) -> TrainingLoop:
    """Open the stream of batches, the sinks and the records, and connect them to a loop."""
    config, world, state = session.config, session.world, beginning.state
    records = make_records(session, state.step)
    stream = source.stream(state)
    session.stack.callback(stream.close)
    return TrainingLoop(
        plan=plan,
        training=config.training,
        state=state,
        batches=iter(stream),
        position=lambda: stream.state,
        model=built.model,
        optimizer=built.optimizer,
        learning_rate=built.learning_rate,
        updater=make_updater(session, built, state.micro_batch),
        saver=make_saver(session, prepared, plan, built, beginning),
        records=records,
        throughput=make_throughput(config, built, world),
        world=world,
        hooks=make_hooks(session, prepared, plan, built, test_rows=test_rows, step=state.step),
        should_stop=session.should_stop,
    )


def make_updater(session: Session, built: Build, micro_batch: int | None) -> Updater:
    """The part that makes updates; a resume keeps the micro-batch that memory has forced on the run."""
    changed = session.run is not None and any("micro_batch_size" in change.path for change in session.run.changes)
    return Updater(
        built.trainable.loss_function,
        built.model,
        built.optimizer,
        world=session.world,
        precision=built.precision,
        micro_batch=built.micro_batch if changed or micro_batch is None else micro_batch,
        max_grad_norm=session.config.training.max_grad_norm,
        should_stop=session.should_stop,
        bf16_weights=built.trainable.bf16_weights,
    )


def make_saver(
    session: Session, prepared: PreparedData, plan: TrainingPlan, built: Build, beginning: Beginning
) -> Saver:
    """The part that takes checkpoints."""
    manifest = beginning.manifest
    resumed = None
    if manifest is not None and manifest.step in {info.step for info in session.manager.list()}:
        resumed = Saved(manifest.step, manifest.kind, manifest.label, manifest.milestone)
    return Saver(
        session.manager,
        plan,
        session.config.training,
        model=built.model,
        tokenizer=prepared.tokenizer,
        optimizer=built.optimizer,
        scaler=built.precision.scaler,
        world=session.world,
        resumed=resumed,
    )


def make_records(session: Session, step: int) -> RecordWriter:
    """The writer of metrics.jsonl and of its mirrors; silent on ranks other than 0."""
    run, config = session.run, session.config
    if run is None:
        return RecordWriter(lambda _: None, reporter=session.reporter)
    sink_run = SinkRun(
        run_id=run.run_id,
        name=config.experiment_name,
        directory=run.path,
        config=msgspec.to_builtins(config),
        step=step,
        project=config.logging.wandb_project or config.experiment_name,
        mode=config.logging.wandb_mode,
    )
    sinks = open_sinks(config.logging, sink_run)
    session.stack.callback(close_sinks, sinks)
    records = RecordWriter(run.append_metrics, reporter=session.reporter, sinks=sinks)
    session.stack.callback(records.flush)
    return records


def make_hooks(
    session: Session,
    prepared: PreparedData,
    plan: TrainingPlan,
    built: Build,
    *,
    test_rows: Rows | None,
    step: int,
) -> list[Hook]:
    """Evaluation and the user's own hooks, on rank 0."""
    if session.run is None:
        return []
    settings = session.config.evaluation
    repeats = step in {0, plan.total_steps}  # what is measured there was, perhaps, by a process that then stopped
    recorded = [record for record in session.run.metrics() if record.get("step") == step] if repeats else []
    evaluation = EvaluationHook(
        settings,
        make_suites(session, prepared, built, test_rows),
        text_sampler(prepared.tokenizer, settings, seed=session.config.random_seed),
        total_steps=plan.total_steps,
        recorded=recorded,
        message=session.reporter.message,
    )
    return [FirstStep(session.run, step + 1), evaluation, *session.hooks]


def make_suites(session: Session, prepared: PreparedData, built: Build, test_rows: Rows | None) -> Mapping[str, Suite]:
    """What an evaluation measures: the held-out split if there is one, minimal pairs if there are some."""
    settings = session.config.evaluation
    should_stop: Callable[[], bool] = session.should_stop
    batch_size = settings.batch_size or built.micro_batch
    suites: dict[str, Any] = {}
    held_out = None
    if test_rows is not None:
        held_out = held_out_of(test_rows, max_sequences=settings.max_sequences, batch_size=batch_size)
    if held_out is not None:
        suites[TEST] = held_out_suite(held_out, batch_size=batch_size, should_stop=should_stop)
    if settings.minimal_pairs:
        paths = [str(session.paths.resolve(path)) for path in settings.minimal_pairs]
        suites[PAIRS] = minimal_pair_suite(prepared.tokenizer, paths, should_stop=should_stop)
    return suites
