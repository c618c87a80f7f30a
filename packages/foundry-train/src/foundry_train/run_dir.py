"""The directory of a run: who owns it, which experiment it is, where it stands.

    with RunDirectory.open(path, config, resume="auto") as run:        # takes the lock, compares the config
        run.bind(data_digest=..., tokenizer_digest=...)                # writes run.json, or compares
        run.start_attempt(from_step=..., fingerprint=...)              # one line in lineage.jsonl
        run.append_metrics({"kind": "step", "step": 1, "loss": 9.2})

`run.json` is written once and never changed. A run is continued only by the same experiment: a change of an identity
field, of the data or of the tokenizer is refused with what differs.
"""

import datetime
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from foundry_config import ExperimentConfig, FieldChange, canonical_json, config_digest, config_from_dict, diff_configs
from foundry_config.errors import CheckpointError, ConfigError, FoundryError, ResumeMismatchError, StorageError
from foundry_data import fs
from foundry_train.checkpoint_list import CheckpointInfo
from foundry_train.checkpoint_names import step_folders
from foundry_train.lineage import append_event, read_events, save_event
from foundry_train.lock import RunLock
from foundry_train.manifest import ParentLink, canonical_bytes
from foundry_train.metrics_log import MetricsLog, read_metrics
from foundry_train.run_record import FORMAT, RunRecord, read_json, read_record
from foundry_train.space import storage_error

logger = logging.getLogger(__name__)

ATTEMPTS_ALLOWED = 2  # starts from one checkpoint that got nowhere, before a person has to decide
_SHOWN = 20

DIGITS_OF_A_STEP = 18


class RunDirectory:
    """An open run directory; this process holds its lock until `close`."""

    def __init__(self, path: Path, config: ExperimentConfig, lock: RunLock) -> None:
        self.path = path
        self.config = config
        self.record: RunRecord | None = None
        self.changes: list[FieldChange] = []
        """Fields that differ from the last start, none of them of the identity."""
        self.attempt = 1 + sum(event.get("event") == "start" for event in read_events(path))
        self._lock = lock
        self._metrics = MetricsLog(path / "metrics.jsonl")
        self._status: dict[str, Any] = read_json(path / "status.json") or {}
        self._found = dict(self._status)
        self._began = False
        self._environment: Mapping[str, Any] | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: ExperimentConfig,
        *,
        resume: str = "auto",
        allow_numeric_drift: bool = False,
    ) -> Self:
        """Make or open the directory of a run and lock it.

        Args:
            path: The run directory.
            config: The experiment.
            resume: `auto`, `never` (refuse if there is something to resume), `must` (refuse if there is not), `step=N`.
            allow_numeric_drift: Go on although fields changed that change bits, not meaning.

        Raises:
            RunLockedError: Another process has it.
            ResumeMismatchError: It holds another experiment; lists the fields that differ.
            CheckpointError: `resume` wants a checkpoint and there is none.
            StorageError: It cannot be made or locked.
        """
        path = Path(path)
        parse_resume(resume)
        try:
            fs.make_directories(path)
            lock = RunLock(path)
        except OSError as error:
            raise storage_error(error, path) from error
        run = cls(path, config, lock)
        try:
            run._check(resume, allow_numeric_drift)
        except BaseException:
            run.close()
            raise
        return run

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def run_id(self) -> str:
        """Identity of the run; known after `bind`."""
        if self.record is None:
            raise RuntimeError("the run has no id before bind()")
        return self.record.run_id

    @property
    def is_fork(self) -> bool:
        """Whether the run began at a checkpoint of another one."""
        return self.record is not None and self.record.parent is not None

    @property
    def status(self) -> Mapping[str, Any]:
        """Content of status.json."""
        return self._status

    def bind(self, *, data_digest: str, tokenizer_digest: str, parent: ParentLink | None = None) -> None:
        """Fix data and tokenizer of a new run and write its config.json, or compare them with those it was made with.

        Raises:
            ResumeMismatchError: They are others.
            StorageError: The disk refuses.
        """
        if self.record is not None:
            self._compare("training data", self.record.data, data_digest)
            self._compare("tokenizer", self.record.tokenizer, tokenizer_digest)
            self._compare_parent(self.record.parent, parent)
        record = self.record or RunRecord(
            format=FORMAT,
            run_id=str(uuid.uuid4()),
            config=config_digest(self.config),
            data=data_digest,
            tokenizer=tokenizer_digest,
            created=_now(),
            parent=parent,
        )
        try:
            if self.record is None:
                fs.write_atomic(self.path / "run.json", canonical_bytes(msgspec.to_builtins(record)) + b"\n")
                self._write_config()
        except OSError as error:
            raise storage_error(error, self.path) from error
        self.record = record

    def start_attempt(
        self,
        *,
        from_step: int | None,
        manifest: str | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        drift: Sequence[str] = (),
    ) -> int:
        """Record a start in the lineage; returns its number, counted from 1.

        Args:
            from_step: Step of the checkpoint that the run goes on from, None for the very first start.
            manifest: `self` of that checkpoint's manifest.
            fingerprint: Numeric fingerprint of this process.
            drift: Numeric differences that were allowed.

        Raises:
            CheckpointError: Two starts from this checkpoint got nowhere already.
            StorageError: The disk refuses.
        """
        failed = self._count_attempt(from_step)
        event = {
            "event": "start",
            "attempt": self.attempt,
            "run_id": self.run_id,
            "from_step": from_step,
            "manifest": manifest,
            "fingerprint": dict(fingerprint or {}),
            "changes": [str(change) for change in self.changes],
            "drift": list(drift),
            "time": _now(),
        }
        try:
            append_event(self.path, event)
            self._write_config()  # from here on nothing is refused that could have changed it in vain
        except OSError as error:
            raise storage_error(error, self.path) from error
        self._began = True
        if self._environment is not None:  # else the thread that takes the snapshot sees that the run has begun
            self.write_environment(self._environment)
        self.update_status(phase="starting", step=from_step or 0, resume=failed)
        return self.attempt

    def write_environment(self, snapshot: Mapping[str, Any]) -> None:
        """Write environment.json: what a reader of the results two years later wants to know.

        In a run that has trained before, the one that is there stays until this process begins to train.
        """
        self._environment = snapshot
        if self.attempt > 1 and not self._began:
            return
        text = json.dumps(snapshot, indent=2, sort_keys=True, default=str, ensure_ascii=False)
        data = text.encode("utf-8", "replace")  # an argument that is no UTF-8 holds lone surrogates
        self._write_for_people("environment.json", data + b"\n")

    def update_status(self, **fields: Any) -> None:
        """Set fields of status.json: phase, step, exit_reason, resumable ...; a disk that refuses is a warning."""
        self._status |= fields | {"time": _now()}
        self._write_for_people("status.json", canonical_bytes(self._status) + b"\n")

    def restore_status(self, *, refused: bool) -> bool:
        """Put status.json back as it was found, if the run has trained before and this process changed nothing of it.

        Args:
            refused: Whether this process was asked for something that cannot be; a run that is done stays so anyway.

        Returns:
            Whether there was something to put back.
        """
        has_trained = self.attempt > 1
        if not self._found or not has_trained or self._began or not (refused or self._found.get("phase") == "done"):
            return False
        self._status = dict(self._found)
        self._write_for_people("status.json", canonical_bytes(self._status) + b"\n")
        return True

    def made_progress(self) -> None:
        """Say that the checkpoint which the run went on from is good: a new step was reached, or the end."""
        if self._status.get("resume"):
            self.update_status(resume=None)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl, with the number of this attempt."""
        self._metrics.append({"attempt": self.attempt, **record})

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl."""
        return read_metrics(self._metrics.path)

    def truncate_metrics(self, step: int) -> None:
        """Cut metrics.jsonl behind `step`: what came later is about to be repeated.

        Raises:
            StorageError: The disk refuses.
        """
        try:
            self._metrics.truncate_after(step)
        except OSError as error:
            raise storage_error(error, self._metrics.path) from error

    def before_save(self) -> None:
        """Make the metrics up to a checkpoint as durable as the checkpoint; failing is a warning.

        Raises:
            StorageError: The directory was removed, moved or replaced: a checkpoint there would belong to no run.
        """
        if not self._lock.is_in_place():
            raise StorageError(f"{self.path} was removed, moved or replaced while the run was writing into it")
        try:
            self._metrics.sync()
        except OSError as error:
            logger.warning("%s may be incomplete after a power cut: %s", self._metrics.path, error.strerror or error)

    def after_save(self, info: CheckpointInfo) -> None:
        """Record a checkpoint in lineage and status; failing is a warning, since the checkpoint itself is safe."""
        try:
            append_event(self.path, save_event(info))
        except OSError as error:
            logger.warning("%s is saved, but not in the lineage: %s", info.path.name, error.strerror or error)
        self.update_status(saved_step=info.step, resumable=True, resume=None)

    def close(self) -> None:
        """Write what waits and give the lock back."""
        self._metrics.flush()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, FoundryError):
            self.made_progress()  # it ended for a reason that was said: no sign of a checkpoint that crashes
        self.close()

    def _check(self, resume: str, allow_numeric_drift: bool) -> None:
        saved = [step for step, _ in step_folders(self.checkpoints)]
        if (self.path / "run.json").exists():
            record = read_record(self.path / "run.json")
            if (
                saved or self.attempt > 1
            ):  # else it never began, so there is nothing that a corrected config could spoil
                self.record = record
                self._compare_config(allow_numeric_drift)
        elif saved:
            raise ResumeMismatchError(
                f"{self.path} holds checkpoints but no run.json: it was not made by `foundry train`, or is damaged; "
                "choose another training.output_dir"
            )
        if resume == "never" and saved:
            raise ResumeMismatchError(
                f"{self.path} holds {len(saved)} checkpoints (up to step {saved[-1]}) and --resume never was given; "
                "choose another training.output_dir, or leave the option out to go on"
            )
        if resume == "must" and not saved:
            raise CheckpointError(f"nothing to resume: {self.checkpoints} holds no checkpoint")

    def _compare_config(self, allow_numeric_drift: bool) -> None:
        before = read_json(self.path / "config.json")
        same = self.record is None or self.record.config == config_digest(self.config)
        if before is None:
            if not same:
                raise ResumeMismatchError(
                    f"{self.path} holds another experiment; its config.json is gone\n{_OTHER_RUN}"
                )
            return
        try:
            old = config_from_dict(before)
        except ConfigError as error:
            raise ResumeMismatchError(f"{self.path / 'config.json'} cannot be read back: {error}") from error
        changes = diff_configs(old, self.config)
        self._refuse([c for c in changes if c.field_class == "identity"], "is another experiment", _OTHER_RUN)
        if not same:
            raise ResumeMismatchError(
                f"{self.path}: config.json is not the one that run.json was made with\n{_OTHER_RUN}"
            )
        numeric = [change for change in changes if change.field_class == "numeric"]
        if not allow_numeric_drift:
            self._refuse(numeric, "would go on with other bits", "put them back, or give --allow-numeric-drift")
        for change in changes:
            logger.info("changed since the last start: %s", change)
        self.changes = changes

    def _refuse(self, changes: Sequence[FieldChange], what: str, advice: str) -> None:
        if changes:
            lines = "".join(f"\n  {change}" for change in changes[:_SHOWN])
            raise ResumeMismatchError(f"the run in {self.path} {what}:{lines}\n{advice}")

    def _compare(self, what: str, old: str, new: str) -> None:
        if old != new:
            fields = "".join(
                f"\n  {change}" for change in self.changes if change.path.startswith(("data.", "tokenizer."))
            )
            raise ResumeMismatchError(f"the {what} of {self.path} changed: {old} -> {new}{fields}\n{_OTHER_RUN}")

    def _compare_parent(self, old: ParentLink | None, new: ParentLink | None) -> None:
        """A run stays the fork that it was made as; without a wish (`new` is None) it goes on as that."""
        if new is None or (old is not None and (old.run_id, old.step) == (new.run_id, new.step)):
            return
        origin = "began at step 0" if old is None else f"is a fork of step {old.step} of the run {old.run_id}"
        raise ResumeMismatchError(
            f"{self.path} {origin}, not of step {new.step} of the run {new.run_id}; "
            "choose another training.output_dir for the fork, or leave --fork out to go on"
        )

    def _count_attempt(self, from_step: int | None) -> dict[str, int] | None:
        if from_step is None:
            return None
        before = self._status.get("resume") or {}
        attempts = int(before.get("attempts", 0)) if before.get("step") == from_step else 0
        if attempts >= ATTEMPTS_ALLOWED:
            raise CheckpointError(
                f"{attempts} starts from step {from_step} ended before the next step; choose an earlier one with "
                f"--resume step=N, or run again to try this one once more"
            )
        return {"step": from_step, "attempts": attempts + 1}

    def _write_config(self) -> None:
        path, data = self.path / "config.json", canonical_json(self.config) + b"\n"
        if not path.exists() or path.read_bytes() != data:
            fs.write_atomic(path, data)

    def _write_for_people(self, name: str, data: bytes) -> None:
        try:
            fs.write_atomic(self.path / name, data)
        except OSError as error:
            logger.warning("%s could not be written: %s", self.path / name, error.strerror or error)


def parse_resume(wish: str) -> int | None:
    """Return N of `step=N`, None for `auto`, `never` and `must`.

    Raises:
        ConfigError: Anything else.
    """
    if wish in {"auto", "never", "must"}:
        return None
    name, _, number = wish.partition("=")
    if name == "step" and number.isdecimal() and len(number) <= DIGITS_OF_A_STEP:
        return int(number)
    raise ConfigError(f"--resume {wish}: expected auto, never, must or step=N")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


_OTHER_RUN = "choose another training.output_dir for the changed experiment, or put the change back to go on"
