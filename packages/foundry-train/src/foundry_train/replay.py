"""Train again from a checkpoint, apart from the run, to see whether the same weights come out.

    verify_run(run, replay=100, replayer=trainer_replay(run, base_dir))

The steps are repeated by a fork of the run in a temporary directory, by the same `Trainer` that made it; the prepared
data are those of the run. It is done in silence: no console, no mirror of the metrics, no log of the run hears of it.
"""

import contextlib
import tempfile
from pathlib import Path

import msgspec

from foundry_config import ExperimentConfig, config_from_dict, replace_fields
from foundry_config.errors import CheckpointError, FoundryError
from foundry_model.pretrained import model_state
from foundry_train.checkpoint_list import CheckpointInfo
from foundry_train.hooks import Hook, Moment
from foundry_train.safetensors_writer import weights_digest
from foundry_train.trainer import Trainer
from foundry_train.verify import Replayer


def trainer_replay(run: Path, base_dir: Path) -> Replayer:
    """Return a replayer for a run made by `Trainer`.

    Args:
        run: The run directory.
        base_dir: Where the relative paths of its config count from.
    """

    def replay(start: CheckpointInfo, to_step: int) -> str:
        with tempfile.TemporaryDirectory(prefix="foundry-replay-") as scratch:
            hook = _DigestAt(to_step)
            config = _config_of(run, Path(scratch) / "run")
            with contextlib.suppress(_ReachedError):
                Trainer(config, base_dir, fork=start.path.resolve(), hooks=[hook], console=None).train()
            if hook.digest is None:
                raise CheckpointError(f"training again from {start.path.name} ended before step {to_step}")
            return hook.digest

    return replay


class _ReachedError(FoundryError):
    """The step was reached; carries no message, since it never leaves this file."""


class _DigestAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step
        self.digest: str | None = None

    def is_due(self, step: int) -> bool:
        return step == self.step

    def on_step(self, moment: Moment) -> None:
        self.digest = weights_digest({name: tensor.cpu() for name, tensor in model_state(moment.model).items()})
        raise _ReachedError


def _config_of(run: Path, output_dir: Path) -> ExperimentConfig:
    try:
        config = config_from_dict(msgspec.json.decode((run / "config.json").read_bytes()))
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{run / 'config.json'} cannot be read: {error}") from error
    return replace_fields(config, {"training.output_dir": str(output_dir)} | _APART)


# Nothing outside the temporary directory hears of a replay, and it neither saves for a resume nor runs out of time.
_APART = {
    "logging.dir": None,
    "logging.use_wandb": False,
    "logging.use_tensorboard": False,
    "logging.sinks": (),
    "training.stop_after": None,
    "training.save_every_steps": None,
    "training.save_every_minutes": None,
}
