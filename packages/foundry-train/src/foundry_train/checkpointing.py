"""Save and resume: the one object through which a run writes and reads its checkpoints.

    manager = CheckpointManager(config, base_dir, git_commit_hash)
    manager.save_checkpoint(model, tokenizer, optimizer, lr_scheduler, global_step=10, epoch=1)
    model, tokenizer, step, epoch = manager.load_checkpoint(
        model_factory=lambda: create_model(config), device=torch.device("cpu"), optimizer=optimizer
    )

A checkpoint is a finished Hugging Face folder with `trainer/` and `MANIFEST.json` beside the model. What is taken from
a training is in `capturing.py`, how it is written in `publish.py`, what happens to what lies there already in
`committing.py`, what is removed in `retention.py`, and what a crash or a damage leads to in `recovery.py`.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from foundry_config import ExperimentConfig, ExperimentPaths, config_digest
from foundry_config.errors import CheckpointError, ResumeMismatchError, StorageError
from foundry_data.tokenizer_loading import load_tokenizer
from foundry_train.capturing import (
    CopyTensors,
    Occasion,
    RunIdentity,
    capture_run,
    counters,
    describe_run,
    make_occasion,
)
from foundry_train.checkpoint_files import Capture, tokenizer_files
from foundry_train.checkpoint_list import CheckpointInfo, list_checkpoints
from foundry_train.checkpoint_names import step_path
from foundry_train.committing import SaveListener, commit
from foundry_train.latest_link import point_latest
from foundry_train.manifest import TOKENIZER_FILES, Kind, ParentLink
from foundry_train.publish import make_folder
from foundry_train.rank_agreement import barrier, broadcast_number, collective_device, rank
from foundry_train.recovery import candidates, clean_up, no_valid_checkpoint, set_aside
from foundry_train.restoring import DamagedCheckpointError, Parts, restore_full, restore_weights
from foundry_train.retention import removable, remove_checkpoints
from foundry_train.snapshot import BackgroundWriter, SnapshotBuffers, on_cpu
from foundry_train.state import TrainState

logger = logging.getLogger(__name__)

_FAILURES_ENDURED = 2  # rolling saves in a row that may fail before the run stops


class CheckpointManager:
    """Checkpoints of one run, below `<base_dir>/<training.output_dir>/checkpoints`."""

    def __init__(self, config: ExperimentConfig, base_dir: str | Path, git_commit_hash: str = "unknown") -> None:
        self.config = config
        self.run_dir = ExperimentPaths(config, base_dir).run
        self.checkpoints = self.run_dir / "checkpoints"
        self._git_commit = git_commit_hash
        self._identity: RunIdentity | None = None
        self._listener: SaveListener | None = None
        self._buffers = SnapshotBuffers()
        self._writer = BackgroundWriter()
        self._tokenizer_cache: tuple[int, dict[str, bytes]] | None = None
        self._parent: ParentLink | None = None
        self._failures = 0

    def set_identity(
        self,
        *,
        run_id: str,
        config_digest: str = "",
        data_digest: str = "",
        tokenizer_digest: str = "",
        fingerprint: dict[str, Any] | None = None,
        tokenizer_dir: str | Path | None = None,
        attempt: int = 1,
        listener: SaveListener | None = None,
    ) -> None:
        """Say which run the checkpoints belong to; without it they get an id of their own."""
        self._identity = RunIdentity(
            run_id=run_id,
            config=config_digest,
            data=data_digest,
            tokenizer=tokenizer_digest,
            fingerprint=fingerprint or {},
            tokenizer_dir=Path(tokenizer_dir) if tokenizer_dir is not None else None,
            attempt=attempt,
        )
        self._listener = listener

    def save_checkpoint(
        self,
        model: nn.Module,
        tokenizer: Any,
        optimizer: Any,
        lr_scheduler: Any = None,
        *,
        global_step: int,
        epoch: int = 0,
        state: TrainState | None = None,
        scaler: Any = None,
        kind: Kind = "full",
        label: str | None = None,
        milestone: bool | None = None,
        loss: float | None = None,
    ) -> Path:
        """Save and return when the checkpoint is durable; returns its folder. Every rank must call it.

        Args:
            model: Any module; with a transformers config the folder opens with `from_pretrained`.
            tokenizer: Anything with `save_pretrained`, or None; its files are stored with the model.
            optimizer: One optimizer or an `OptimizerGroup`.
            lr_scheduler: None, or an object with a `state_dict()` of plain numbers.
            global_step: Updates completed.
            epoch: Used when `state` is not given.
            state: All counters; its step must be `global_step`.
            scaler: The GradScaler of fp16.
            kind: `full` can be resumed; `weights` is a third of the size.
            label: Name on export, such as `chck_10M`.
            milestone: Keep for ever. Default: labelled ones, weights, and steps that the config's schedule spells out.
            loss: For the manifest.

        Raises:
            StorageError: It could not be written; earlier checkpoints are intact.
            NonFiniteError: The state holds NaN or infinite numbers.
            ValueError: A number, the kind or the label is not what it should be; nothing is written.
        """
        self.wait()
        self.raise_pending()
        occasion = make_occasion(kind, self._is_milestone(milestone, kind, label, global_step), label, loss)
        parts = Parts(model, optimizer, lr_scheduler, scaler)
        capture = self._capture(parts, tokenizer, counters(state, global_step, epoch), occasion, on_cpu)
        failure: BaseException | None = None
        if capture is not None:
            try:
                self._write(capture)
            except Exception as error:
                failure = error
        self._agree(failure, model)
        return step_path(self.checkpoints, global_step)

    def save_async(
        self,
        model: nn.Module,
        tokenizer: Any,
        optimizer: Any,
        lr_scheduler: Any = None,
        *,
        global_step: int,
        epoch: int = 0,
        state: TrainState | None = None,
        scaler: Any = None,
        kind: Kind = "full",
        label: str | None = None,
        milestone: bool | None = None,
        loss: float | None = None,
    ) -> None:
        """Copy the state and return; a thread writes it. Arguments as in `save_checkpoint`.

        Waits for the save before, if it is still being written, and raises its error. A rolling save that fails is a
        warning, three in a row are an error; a milestone that fails is one. With `training.async_save: false` the
        writing, too, is done before this returns.
        """
        self.wait()
        self.raise_pending()
        occasion = make_occasion(kind, self._is_milestone(milestone, kind, label, global_step), label, loss)
        parts = Parts(model, optimizer, lr_scheduler, scaler)
        copy = self._buffers.copy if self.config.training.async_save else on_cpu
        capture = self._capture(parts, tokenizer, counters(state, global_step, epoch), occasion, copy)
        if capture is None:
            return
        if self.config.training.async_save:
            self._writer.start(lambda: self._write_tolerantly(capture))
        else:
            self._write_tolerantly(capture)

    @property
    def durable_step(self) -> int | None:
        """Step of the checkpoint that this process saved or restored last; a tolerated failure leaves it behind."""
        return None if self._parent is None else self._parent.step

    def wait(self) -> None:
        """Wait until no save is being written."""
        self._writer.wait()

    def raise_pending(self) -> None:
        """Raise the error of an asynchronous save that has failed since the last call."""
        if not self._writer.busy:
            self._writer.raise_pending()

    def list(self) -> list[CheckpointInfo]:
        """Describe all checkpoints by manifest and file sizes, in order of step; damaged ones have a `problem`."""
        return list_checkpoints(self.checkpoints)

    def find_latest(self, kind: Kind = "full") -> CheckpointInfo | None:
        """Return the newest checkpoint that looks sound (`weights`: of any kind), or None."""
        return next((info for info in candidates(self.checkpoints, kind=kind) if info.problem is None), None)

    def load_checkpoint(
        self,
        *,
        model_factory: Callable[[], nn.Module],
        device: torch.device | str = "cpu",
        optimizer: Any = None,
        lr_scheduler: Any = None,
        scaler: Any = None,
        step: int | None = None,
    ) -> tuple[nn.Module, Any, int, int]:
        """Load the newest valid full checkpoint, or the one of `step`; returns model, tokenizer (or None), step, epoch.

        An optimizer built on another instance of the model is pointed to the parameters of the returned one.

        Raises:
            CheckpointError: There is none, or none is valid; each is named with its reason.
            ResumeMismatchError: It belongs to another run, model or optimizer.
        """
        model = model_factory().to(device)
        parts = Parts(model, optimizer, lr_scheduler, scaler)
        info, state = self._restore_newest(parts, step=step)
        return model, self._load_tokenizer(info.path), info.step, state.epoch

    def restore(
        self,
        model: nn.Module,
        optimizer: Any,
        scaler: Any = None,
        info: CheckpointInfo | None = None,
        *,
        lr_scheduler: Any = None,
        step: int | None = None,
    ) -> TrainState:
        """Put a run back to its newest valid full checkpoint, or that of `step`; returns where it stands then.

        `info` (as from `find_latest`) is tried first; damaged checkpoints are quarantined and the next older one is
        taken, so look at the `step` of the result. Raises as `load_checkpoint`.
        """
        wanted = step if info is None else None
        newest = info.step if info is not None else None
        return self._restore_newest(Parts(model, optimizer, lr_scheduler, scaler), step=wanted, newest=newest)[1]

    def restore_weights(self, model: nn.Module, info: CheckpointInfo) -> None:
        """Load the weights of one checkpoint, of either kind.

        Raises:
            CheckpointError: It is damaged.
            ResumeMismatchError: It belongs to another model.
        """
        try:
            restore_weights(info, model)
        except DamagedCheckpointError as error:
            raise CheckpointError(f"{info.path} cannot be used: {error}") from error

    def clean_up(self) -> None:
        """Remove what a crash left behind; only for the holder of the run's lock. Every rank must call it."""
        if rank() == 0:
            clean_up(self.checkpoints)
        barrier()

    def rewind(self, step: int) -> Sequence[CheckpointInfo]:
        """Put aside all checkpoints after `step`, so that the run goes on from there; returns them.

        Every rank must call it.
        """
        later = [info for info in self.list() if info.step > step]
        barrier()
        for info in reversed(later) if rank() == 0 else ():
            set_aside(info, f"the run was taken back to step {step}")
        barrier()
        return later

    def _restore_newest(
        self, parts: Parts, *, step: int | None = None, newest: int | None = None
    ) -> tuple[CheckpointInfo, TrainState]:
        """Restore on this rank; rank 0 finds the checkpoint and the others load the one that it found."""
        self.wait()
        device = collective_device(parts.model)
        if rank() != 0:
            step = broadcast_number(None, device)
            if step is None:
                raise CheckpointError("rank 0 found no checkpoint to go on from; its message says why")
            return self._try_newest(parts, step=step, newest=None)
        found: int | None = None
        try:
            info, state = self._try_newest(parts, step=step, newest=newest)
            found = info.step
        finally:
            broadcast_number(found, device)
        return info, state

    def _try_newest(self, parts: Parts, *, step: int | None, newest: int | None) -> tuple[CheckpointInfo, TrainState]:
        failures: list[tuple[CheckpointInfo, str]] = []
        for info in candidates(self.checkpoints, step=step):
            if newest is not None and info.step > newest:
                continue
            try:
                self._check_owner(info)
                state = restore_full(info, parts)
            except DamagedCheckpointError as error:
                failures.append((info, str(error)))
                if rank() == 0:
                    set_aside(info, str(error))
                continue
            self._parent = _link(info)
            return info, state
        if failures:
            raise no_valid_checkpoint(self.checkpoints, failures)
        raise self._nothing_there(step)

    def _nothing_there(self, step: int | None) -> CheckpointError:
        available = ", ".join(str(info.step) for info in self.list() if info.kind == "full") or "none"
        wanted = "no full checkpoint" if step is None else f"no full checkpoint of step {step}"
        return CheckpointError(f"{wanted} in {self.checkpoints}; steps that can be resumed: {available}")

    def _check_owner(self, info: CheckpointInfo) -> None:
        if self._identity is None or info.manifest is None or info.manifest.run_id == self._identity.run_id:
            return
        raise ResumeMismatchError(
            f"{info.path} belongs to another run ({info.manifest.experiment_name!r}, id {info.manifest.run_id}); "
            "start from it with --fork, in a run directory of its own"
        )

    def _capture(
        self, parts: Parts, tokenizer: Any, state: TrainState, occasion: Occasion, copy: CopyTensors
    ) -> Capture | None:
        manifest = describe_run(self.config, self._own_identity(), self._git_commit, state, occasion)
        capture = capture_run(parts, state, occasion, manifest, copy)
        if capture is None:
            return None
        return capture._replace(plain_files=capture.plain_files | self._tokenizer_files(tokenizer))

    def _write_tolerantly(self, capture: Capture) -> None:
        """Write in the background: a rolling checkpoint may fail now and then, a milestone may not."""
        try:
            self._write(capture)
        except StorageError as error:
            self._failures += 1
            if capture.manifest.milestone or self._failures > _FAILURES_ENDURED:
                raise
            logger.warning("step %d was not saved: %s", capture.manifest.step, error)
        else:
            self._failures = 0

    def _write(self, capture: Capture) -> None:
        if self._listener is not None:
            self._listener.before_save()
        else:
            make_folder(self.run_dir)  # who has no `RunDirectory` need not make one first
        manifest = msgspec.structs.replace(capture.manifest, parent=self._parent_of(capture.manifest.step))
        settings = self.config.training
        info = commit(self.checkpoints, capture._replace(manifest=manifest), verify=settings.verify_after_write)
        self._parent = _link(info)
        logger.info("saved %s (%s)", info.path.name, info.label or info.kind)
        if self._listener is not None:
            self._listener.after_save(info)
        infos = self.list()
        remove_checkpoints(removable(infos, keep=settings.keep_checkpoints, saved_step=info.step))
        newest = max((known.step for known in infos if known.problem is None), default=info.step)
        point_latest(self.run_dir, step_path(self.checkpoints, newest))

    def _parent_of(self, step: int) -> ParentLink | None:
        return self._parent if self._parent is not None and self._parent.step < step else None

    def _agree(self, failure: BaseException | None, model: nn.Module) -> None:
        """Let all ranks learn from rank 0, which alone writes, whether the save worked."""
        worked = broadcast_number(0 if failure is None else 1, collective_device(model)) == 0
        if failure is not None:
            raise failure
        if not worked:
            raise StorageError("rank 0 could not save the checkpoint; its message says why")

    def _own_identity(self) -> RunIdentity:
        if self._identity is None:
            known = next((info.manifest for info in self.list() if info.manifest is not None), None)
            run_id = known.run_id if known is not None else str(uuid.uuid4())
            self._identity = RunIdentity(run_id=run_id, config=config_digest(self.config))
        return self._identity

    def _tokenizer_files(self, tokenizer: Any) -> dict[str, bytes]:
        """Files of the tokenizer, read once: it does not change during a run."""
        if self._tokenizer_cache is None or self._tokenizer_cache[0] != id(tokenizer):
            files = tokenizer_files(tokenizer, self._own_identity().tokenizer_dir)
            self._tokenizer_cache = (id(tokenizer), files)
        return self._tokenizer_cache[1]

    def _load_tokenizer(self, folder: Path) -> Any:
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            return None
        return load_tokenizer(folder)

    def _is_milestone(self, wish: bool | None, kind: Kind, label: str | None, step: int) -> bool:
        spelled_out = self.config.training.checkpoint_schedule or ()
        return wish if wish is not None else kind == "weights" or label is not None or step in spelled_out


def _link(info: CheckpointInfo) -> ParentLink | None:
    return ParentLink(info.step, info.manifest.self_digest) if info.manifest is not None else None
