"""Any damage to any file of the newest checkpoint is noticed and named, and the one before is used."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from foundry_config.errors import CheckpointError
from foundry_train.checkpointing import CheckpointManager
from foundry_train.safetensors_writer import weights_digest
from foundry_train.state import TrainState

TRIALS = 500


class Pair:
    """A run with two checkpoints, of which the newer one is damaged again and again."""

    def __init__(self, harness: ModuleType, root: Path) -> None:
        self.manager = CheckpointManager(harness.config_for(harness.PLAIN), root, "commit")
        self.model = harness.make_model(harness.PLAIN)
        self.optimizer = harness.make_optimizer(harness.PLAIN, self.model)
        self.digests: dict[int, str] = {}
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        for step in (1, 2):
            harness.update(self.model, self.optimizer, scaler, harness.PLAIN, step)
            details = {"global_step": step, "state": TrainState(step=step)}
            self.manager.save_checkpoint(self.model, Tokenizer(), self.optimizer, **details)
            self.digests[step] = weights_digest(dict(self.model.state_dict()))
        self.older, self.newest = (info.path for info in self.manager.list())
        self.backup = root / "backup"
        shutil.copytree(self.newest, self.backup)

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.backup).as_posix() for path in self.backup.rglob("*") if path.is_file())

    def repair(self) -> None:
        shutil.rmtree(self.newest.parent / ".quarantine", ignore_errors=True)
        shutil.rmtree(self.newest, ignore_errors=True)
        shutil.copytree(self.backup, self.newest)


class Tokenizer:
    """Stands for a real one."""

    def save_pretrained(self, path: str) -> None:
        (Path(path) / "tokenizer.json").write_text('{"version": "1.0"}')


def flip(path: Path, other: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut(path: Path, other: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def lengthen(path: Path, other: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + bytes(chance.randrange(1, 9)))


def swap(path: Path, other: Path, chance: random.Random) -> None:
    """Take the file from the checkpoint before."""
    shutil.copyfile(other, path)


def remove(path: Path, other: Path, chance: random.Random) -> None:
    path.unlink()


def empty(path: Path, other: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


DAMAGES: list[Callable[[Path, Path, random.Random], None]] = [flip, flip, flip, cut, lengthen, swap, remove, empty]


@pytest.mark.slow
def test_every_damage_is_noticed_named_and_the_previous_checkpoint_used(
    harness: ModuleType, fast_path: Path, tell: Callable[[str], None]
) -> None:
    pair, chance = Pair(harness, fast_path), random.Random(0)
    names = pair.files()
    noticed = 0
    for trial in range(TRIALS):
        name, damage = names[trial % len(names)], chance.choice(DAMAGES)
        if damage is swap and (pair.older / name).read_bytes() == (pair.newest / name).read_bytes():
            damage = flip
        damage(pair.newest / name, pair.older / name, chance)

        state = pair.manager.restore(pair.model, pair.optimizer)

        assert state.step == 1, f"{damage.__name__} of {name} was not noticed"
        assert weights_digest(dict(pair.model.state_dict())) == pair.digests[1]
        reason = (pair.newest.parent / ".quarantine/step-00000002/reason.json").read_text()
        assert name in reason or (damage is swap and name == "MANIFEST.json"), f"{damage.__name__} of {name}: {reason}"
        noticed += 1
        pair.repair()
    tell(f"damage: {noticed} of {TRIALS} flips, cuts, swaps and removals noticed, over {len(names)} files")


def test_when_all_checkpoints_are_damaged_each_is_named_and_nothing_starts_from_scratch(
    harness: ModuleType, fast_path: Path
) -> None:
    pair = Pair(harness, fast_path)
    flip(pair.newest / "model.safetensors", pair.older, random.Random(1))
    (pair.older / "trainer/state.json").unlink()

    with pytest.raises(CheckpointError) as raised:
        pair.manager.restore(pair.model, pair.optimizer)

    message = str(raised.value)
    assert raised.value.exit_code == 4
    assert "step-00000001: trainer/state.json is missing" in message
    assert "step-00000002: model.safetensors is damaged" in message
    assert sorted(path.name for path in (pair.newest.parent / ".quarantine").iterdir()) == [
        "step-00000001",
        "step-00000002",
    ]
