"""From a config to a trained model: `Trainer(config, base_dir).train()` reads as the list of what happens.

    summary = Trainer(load_config("experiment.yaml"), base_dir=".").train()
    summary.final_loss, summary.checkpoint

Run again, it goes on where it stopped, or returns the summary of a run that is complete. A signal or the end of the
time budget ends the loop with everything saved and a summary that says so; before the loop it raises `Stopped`.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundry_config import ExperimentConfig, ExperimentPaths, TrainingPlan, config_digest
from foundry_config.errors import (
    CheckpointError,
    ConfigError,
    FoundryError,
    MemoryExhaustedError,
    ResumeMismatchError,
)
from foundry_config.lookup import find_modules_in
from foundry_data.processor import DataProcessor, PreparedData
from foundry_model.out_of_memory import is_out_of_memory
from foundry_train.build import Build, build, describe_build
from foundry_train.checkpoint_files import model_files, tokenizer_files
from foundry_train.checkpoint_list import CheckpointInfo
from foundry_train.checkpointing import CheckpointManager
from foundry_train.compilation import compile_failure
from foundry_train.distributed import World, lost_rank, open_world
from foundry_train.environment import environment_snapshot, get_git_commit_hash
from foundry_train.hooks import Hook
from foundry_train.kept_receipts import keep_receipts
from foundry_train.loop import LoopEnd, TrainingLoop, stop_request
from foundry_train.loop_assembly import assemble_loop
from foundry_train.manifest import ParentLink
from foundry_train.planning import BatchSource, describe_plan, make_plan, write_plan
from foundry_train.process_setup import describe_batch, say_where, set_up_process
from foundry_train.progress import PlainReporter, Reporter, Reporters
from foundry_train.rehearsal import rehearse
from foundry_train.resuming import Beginning, begin, begin_fork, fork_source, has_own_full, parent_link
from foundry_train.run_dir import RunDirectory, parse_resume
from foundry_train.run_logs import RAISED, Console, run_logging
from foundry_train.seeding import kept_settings
from foundry_train.session import Session
from foundry_train.signals import Stopped, StopSignals
from foundry_train.space import FULL_OR_READ_ONLY, check_space, checkpoint_sizes, storage_error
from foundry_train.summary import TrainingSummary, is_complete, summarize, write_summary

logger = logging.getLogger(__name__)

REFUSED = (ConfigError, ResumeMismatchError)  # what was asked for cannot be, and the run is as it was
MAX_SMALL_FILES = 16 * 2**10  # manifest, headers, generators: bytes of a checkpoint that are no tensors


class Trainer:
    """One experiment, to be trained or gone on with."""

    def __init__(
        self,
        config: ExperimentConfig,
        base_dir: str | Path,
        *,
        resume: str = "auto",
        reporter: Reporter | None = None,
        console: Console = "stderr",
        hooks: Sequence[Hook] = (),
        allow_numeric_drift: bool = False,
        fork: str | Path | None = None,
    ) -> None:
        """
        Args:
            config: The experiment.
            base_dir: Relative paths of the config count from here.
            resume: `auto`, `never`, `must` or `step=N`.
            reporter: Shows what happens, beside the lines through `logging` that the log file of the run has.
            console: Where messages of `logging` are shown: `stderr` (unless the program has handlers of its own on the
                root logger), a handler, or nowhere.
            hooks: Own code, called at the moments of a run on rank 0.
            allow_numeric_drift: Go on although machine or libraries would give other bits.
            fork: A run or checkpoint from which this run, if it is new, begins.
        """
        self.config = config
        self.base_dir = Path(base_dir)
        find_modules_in(self.base_dir)
        self.paths = ExperimentPaths(config, base_dir)
        self.resume = "must" if config.training.resume_from_checkpoint and resume == "auto" else resume
        self.console: Console = console
        self._lines = PlainReporter(every_steps=config.logging.log_every_steps)
        self.reporter: Reporter = self._lines if reporter is None else Reporters(self._lines, reporter)
        self.hooks = hooks
        self.allow_numeric_drift = allow_numeric_drift
        self.fork = None if fork is None else self.paths.resolve(str(fork))
        self.manager = CheckpointManager(config, self.base_dir, get_git_commit_hash(self.base_dir))
        self._loop: TrainingLoop | None = None

    def train(self) -> TrainingSummary:
        """Train until the plan is fulfilled or a stop is asked for.

        Raises:
            FoundryError: Anything that a user can cause; its class tells the exit code. `Stopped` if a signal came
                before the loop.
            RuntimeError: A failure of ours or of a library, as one message that names the step.
        """
        try:
            with contextlib.ExitStack() as stack:
                return self._train(stack)
        except Exception as error:
            told = self._told(error)
            if told is error:
                raise
            raise told from error

    def _step(self) -> int:
        return self._loop.state.step if self._loop is not None else 0

    def _told(self, error: BaseException) -> Exception:
        """Turn an error into the one that the user is told: of a class that says whose fault it is, in one message."""
        if isinstance(error, FoundryError):
            return error
        if isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:
            return storage_error(error, self.paths.run)
        message = f"training failed after step {self._step()}: {type(error).__name__}: {error}"
        if is_out_of_memory(error):
            return MemoryExhaustedError(f"{message}; use a smaller model or batch, or a larger device")
        return compile_failure(error) or lost_rank(error) or RuntimeError(message)

    def _log_failure(self, kind: Any, error: BaseException | None, trace: Any) -> None:  # noqa: ARG002
        """Leave the reason in the log; whoever called is told by the exception."""
        if error is not None:
            logger.error("%s", self._told(error), extra=RAISED)
            logger.debug("where it happened", exc_info=error, extra=RAISED)

    def _train(self, stack: contextlib.ExitStack) -> TrainingSummary:
        started = time.monotonic()
        session = self._open_session(stack)
        rehearse(self.config, self.paths, session.world, resumes=has_own_full(self.manager))
        prepared = self._prepare_data(session)
        self._bind(session, prepared)
        source = BatchSource(self.config, self._processor.train_rows(prepared), session.world)
        plan = self._plan(session, source)
        if parse_resume(self.resume) is None and is_complete(self.paths.run, plan, self.manager):
            if session.run is not None:
                session.run.update_status(phase="done")
            return self._summarize(plan, already_done=True, seconds=time.monotonic() - started)
        built = self._build(session, plan, prepared)
        beginning = self._begin(session, plan, prepared, built)
        self._check_space(session, plan, prepared, built, beginning)
        test_rows = self._processor.test_rows(prepared)
        loop = assemble_loop(session, prepared, source, plan, built, beginning, test_rows=test_rows)
        self._loop = loop
        left = plan.total_steps - loop.state.step
        self.reporter.stage("training", f"{left:,} step{'s' if left != 1 else ''}")
        with session.signals.deferred():
            end = loop.run()
        return self._finish(session, plan, loop, end, beginning, seconds=time.monotonic() - started)

    def _open_session(self, stack: contextlib.ExitStack) -> Session:
        """Take over signals, join the ranks, set the process up, lock the run directory."""
        signals = stack.enter_context(StopSignals())
        should_stop = stop_request(self.config.training, lambda: signals.requested)
        stack.enter_context(kept_settings())
        world = stack.enter_context(open_world(self.config.training.device))
        set_up_process(self.config, world)
        run = self._open_run(stack, world)
        self._open_logs(stack, world)
        say_where(self.config, world)
        return Session(
            config=self.config,
            base_dir=self.base_dir,
            paths=self.paths,
            world=world,
            run=run,
            manager=self.manager,
            reporter=self.reporter,
            hooks=self.hooks,
            signals=signals,
            should_stop=should_stop,
            stack=stack,
        )

    def _open_run(self, stack: contextlib.ExitStack, world: World) -> RunDirectory | None:
        """Lock the run directory and write down where it runs; only rank 0 does."""
        if not world.is_main:
            return None
        self.reporter.stage("run", str(self.paths.run))
        drift = self.allow_numeric_drift
        run = RunDirectory.open(self.paths.run, self.config, resume=self.resume, allow_numeric_drift=drift)
        stack.enter_context(run)
        stack.callback(self._finish_writing)  # before the lock is given back, whatever ends the run
        stack.push(functools.partial(self._note_failure, run))
        self._fork_source()  # one that cannot be used is refused before any data are prepared
        snapshot = threading.Thread(
            target=lambda: run.write_environment(environment_snapshot(world.device, self.base_dir)),
            name="environment",
        )  # a third of a second, which nobody has to wait for
        snapshot.start()
        stack.callback(snapshot.join)
        run.update_status(phase="preparing", exit_reason=None)
        return run

    def _open_logs(self, stack: contextlib.ExitStack, world: World) -> None:
        """Write the log of this process from here on; the folder of a run is rank 0's to make."""
        world.barrier()
        if not world.is_main:
            self.reporter = self._lines
        logs = run_logging(self.config, self.paths.logs, rank=world.rank, console=self.console)
        stack.enter_context(logs)
        stack.push(self._log_failure)

    def _prepare_data(self, session: Session) -> PreparedData:
        """Text to token stores; rank 0 does the work, the others find it done."""
        self.reporter.stage("data", self.config.data.source_corpus)
        self._processor = processor = DataProcessor(self.config, self.base_dir)
        if not session.world.is_main:
            session.world.barrier()
        prepared = session.signals.run_in_thread(lambda: processor.preprocess(progress=self.reporter.progress))
        if session.world.is_main:
            session.world.barrier()
        return prepared

    def _bind(self, session: Session, prepared: PreparedData) -> None:
        """Fix the data of the run, or refuse data that it was not made from."""
        if session.run is None:
            return
        session.run.bind(
            data_digest=prepared.data_digest,
            tokenizer_digest=prepared.tokenizer_digest,
            parent=self._fork_parent(),
        )
        keep_receipts(session.run.path, prepared.receipts)

    def _plan(self, session: Session, source: BatchSource) -> TrainingPlan:
        plan = make_plan(source)
        self.reporter.stage("plan", f"{describe_plan(plan)}; {describe_batch(self.config, session.world)}")
        return plan

    def _build(self, session: Session, plan: TrainingPlan, prepared: PreparedData) -> Build:
        self.reporter.stage("model", self.config.model.architecture)
        run_dir = self.paths.run if session.run is not None else None
        built = build(self.config, plan, prepared.tokenizer, session.world, run_dir=run_dir)
        self.reporter.message(describe_build(built, session.world))
        return built

    def _begin(self, session: Session, plan: TrainingPlan, prepared: PreparedData, built: Build) -> Beginning:
        """Load what there is to go on from, and write down that this process begins there."""
        run, scaler, fork = session.run, built.precision.scaler, self._fork_source()
        if run is not None and run.is_fork and fork is None and not has_own_full(self.manager):
            raise CheckpointError(f"{run.path} is a fork without a full checkpoint of its own yet; give --fork again")
        if run is not None:
            self.manager.set_identity(
                run_id=run.run_id,
                config_digest=config_digest(self.config),
                data_digest=prepared.data_digest,
                tokenizer_digest=prepared.tokenizer_digest,
                fingerprint=built.fingerprint,
                tokenizer_dir=prepared.tokenizer_dir,
                attempt=run.attempt,
                listener=run,
            )
        if fork is not None:
            parts = (built.model, built.optimizer, scaler)
            beginning = begin_fork(
                self.manager,
                fork,
                *parts,
                data_digest=prepared.data_digest,
                tokenizer_digest=prepared.tokenizer_digest,
                total_steps=plan.total_steps,
            )
        else:
            beginning = begin(
                self.manager,
                built.model,
                built.optimizer,
                scaler,
                resume=self.resume,
                fingerprint=built.fingerprint,
                allow_numeric_drift=self.allow_numeric_drift,
            )
        if run is not None:
            self._note_beginning(run, plan, beginning, built)
        return beginning

    def _fork_source(self) -> CheckpointInfo | None:
        """The checkpoint to fork from; a fork that has full checkpoints of its own goes on from those."""
        return None if self.fork is None or has_own_full(self.manager) else fork_source(self.fork)

    def _fork_parent(self) -> ParentLink | None:
        """The link to what `--fork` names; None if that is gone and no longer needed."""
        if self.fork is None:
            return None
        try:
            return parent_link(fork_source(self.fork))
        except CheckpointError:
            if not has_own_full(self.manager):
                raise
            return None

    def _check_space(
        self, session: Session, plan: TrainingPlan, prepared: PreparedData, built: Build, beginning: Beginning
    ) -> None:
        """Compare the room on the volume with all that is still to be saved."""
        if session.run is None:
            return
        training, here = self.config.training, self.manager.list()
        done = {info.step for info in here} | {plan.total_steps}
        rolling = sum(info.kind == "full" and not info.milestone for info in here)
        small_files = tokenizer_files(None, prepared.tokenizer_dir) | model_files(built.model)
        beside = sum(map(len, small_files.values())) + MAX_SMALL_FILES
        check_space(
            self.paths.run,
            checkpoint_sizes(built.model, built.optimizer, beside=beside),
            milestones=sum(milestone.step not in done for milestone in plan.checkpoints),
            milestone_kind=training.milestones,
            full=max(1, training.keep_checkpoints + 1 - rolling),  # one more while it is written, or the last one
            steps=plan.total_steps - beginning.state.step,
        )

    def _note_beginning(self, run: RunDirectory, plan: TrainingPlan, beginning: Beginning, built: Build) -> None:
        manifest = beginning.manifest
        run.start_attempt(
            from_step=beginning.from_step,
            manifest=manifest.self_digest if manifest is not None else None,
            fingerprint=built.fingerprint,
            drift=beginning.drift,
        )
        write_plan(run, plan)
        run.truncate_metrics(-1 if beginning.from_step is None else beginning.from_step)
        if beginning.from_step is not None:
            self.reporter.stage("resume", f"from step {beginning.from_step:,}")
        run.update_status(phase="training", ended_at_step=None)

    def _finish(
        self,
        session: Session,
        plan: TrainingPlan,
        loop: TrainingLoop,
        end: LoopEnd,
        beginning: Beginning,
        *,
        seconds: float,
    ) -> TrainingSummary:
        """Sum the run up, and write down how it ended."""
        done, step = end.stopped_by is None, loop.state.step
        summary = self._summarize(
            plan,
            seconds=seconds,
            tokens_per_second=loop.throughput.average,
            resumed_from=beginning.from_step,
            stopped_by=end.stopped_by,
            exit_code=end.exit_code,
        )
        if session.run is not None:
            write_summary(summary)
            session.run.update_status(
                phase="done" if done else "stopped",
                step=step,
                ended_at_step=step if done else None,
                exit_reason=end.stopped_by,
                resumable=not done,
            )
        return summary

    def _finish_writing(self) -> None:
        """Let a save that is being written come to its end; one that fails after the run did is only logged."""
        self.manager.wait()
        try:
            self.manager.raise_pending()
        except FoundryError as error:
            logger.error("%s", error)

    def _note_failure(self, run: RunDirectory, kind: Any, error: BaseException | None, trace: Any) -> None:  # noqa: ARG002
        """Write the reason of a failure, or of a stop before the loop, into status.json."""
        if isinstance(error, Stopped):
            run.update_status(phase="stopped", step=run.status.get("saved_step") or 0, exit_reason=error.reason)
        elif error is not None:
            told = self._told(error)
            reason = f"{type(told).__name__}: {told}"[:2000]
            if not run.restore_status(refused=isinstance(error, REFUSED)):
                run.update_status(phase="failed", step=self._step(), exit_reason=reason)

    def _summarize(self, plan: TrainingPlan, **process: Any) -> TrainingSummary:
        return summarize(self.config, self.paths.run, plan, self.manager, **process)
