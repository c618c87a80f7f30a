"""The manager: what is saved comes back, and what is there already is respected."""

import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from foundry_config.errors import CheckpointError, StorageError
from foundry_data import fs
from foundry_data.fs_faults import Operation, Tracing
from foundry_train.checkpointing import CheckpointManager
from foundry_train.manifest import MANIFEST_NAME, read_manifest
from foundry_train.publish import Contents, write_folder
from foundry_train.state import TrainState


def test_the_seed_way_of_saving_and_loading_gives_model_step_and_epoch_and_goes_on_exactly(
    harness: ModuleType, small: Any
) -> None:
    plain = small.optimizer.optimizers[0]
    scheduler = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: 1 / (step + 1))
    small.update(1)
    scheduler.step()
    small.manager.save_checkpoint(small.model, None, plain, scheduler, global_step=10, epoch=1)
    scheduled = scheduler.state_dict()
    small.update(2)
    expected = small.digest()
    scheduler.step()

    model, tokenizer, step, epoch = small.manager.load_checkpoint(
        model_factory=lambda: harness.make_model(small.variant),
        device=torch.device("cpu"),
        optimizer=plain,
        lr_scheduler=scheduler,
    )
    small.model = model
    small.update(2)

    assert (tokenizer, step, epoch) == (None, 10, 1)
    assert scheduler.state_dict() == scheduled
    assert small.digest() == expected


def test_the_manifest_says_all_that_is_known(small: Any) -> None:
    state = TrainState(step=3, epoch=1, position=2, sequences=12, tokens=96, words=70)

    folder = small.save(3, state=state, loss=2.5)

    manifest = read_manifest(folder)
    assert manifest.experiment_name == "tiny" and manifest.git_commit == "abc123"
    assert msgspec.to_builtins(manifest.consumed) == {
        "samples": 12,
        "tokens": 96,
        "words": 70,
        "epoch": 1,
        "position": 2,
    }
    assert manifest.model_config["layers"] == 1 and manifest.training_config["train_steps"] == 4
    assert (manifest.loss, manifest.kind, manifest.milestone, manifest.parent) == (2.5, "full", False, None)
    assert manifest.document_start == "eos"
    assert manifest.weights.digest == small.digest()
    assert manifest.weights.params == sum(p.numel() for p in small.model.parameters())
    assert sorted(manifest.files) == [
        "model.safetensors",
        "trainer/optimizer.safetensors",
        "trainer/rng-00000.safetensors",
        "trainer/state.json",
    ]


def test_each_checkpoint_names_the_one_before_as_parent_also_after_a_restore(harness: ModuleType, small: Any) -> None:
    first = read_manifest(small.save(1, milestone=True))
    small.update(1)
    other = harness.Small(small.root)
    other.manager.restore(other.model, other.optimizer)
    other.update(1)

    second = read_manifest(other.save(2))

    assert second.parent is not None
    assert (second.parent.step, second.parent.self_digest) == (1, first.self_digest)
    assert second.run_id == first.run_id


def test_weights_only_are_smaller_permanent_and_no_place_to_resume_from(small: Any) -> None:
    folder = small.save(1, kind="weights", label="chck_1M")

    assert not (folder / "trainer").exists()
    assert small.manager.find_latest() is None
    found = small.manager.find_latest("weights")
    assert found is not None and (found.label, found.milestone) == ("chck_1M", True)
    with pytest.raises(CheckpointError, match="steps that can be resumed: none"):
        small.manager.restore(small.model, small.optimizer)


def test_weights_of_either_kind_can_be_loaded_alone(small: Any) -> None:
    small.save(1, kind="weights")
    expected = small.digest()
    [info] = small.manager.list()
    small.update(1)

    small.manager.restore_weights(small.model, info)

    assert small.digest() == expected
    (info.path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"cannot be used: model\.safetensors"):
        small.manager.restore_weights(small.model, small.manager.list()[0]._replace(problem=None))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epoch": 1.5}, "epoch: 1.5 is not a whole number"),
        ({"epoch": "1"}, "epoch: '1' is not"),
        ({"global_step": -1}, "global_step: -1 is not a whole number from 0 on"),
        ({"global_step": 2**70}, "global_step: 11805"),
        ({"global_step": True}, "global_step: True"),
        ({"kind": "foo"}, "kind: 'foo' is neither 'full' nor 'weights'"),
        ({"label": 7}, "label: 7 cannot name a revision"),
        ({"label": "../../x"}, "label: '../../x' cannot name"),
        ({"label": "a" * 300}, "cannot name a revision"),
        ({"milestone": "no"}, "milestone: 'no'"),
        ({"loss": "x"}, "loss: 'x' is not a number"),
        ({"state": TrainState(step=1, words=1.5)}, "words"),  # type: ignore[arg-type]
    ],
)
def test_what_no_manifest_could_hold_is_refused_before_anything_is_written(small: Any, wrong: Any, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        small.manager.save_checkpoint(small.model, None, small.optimizer, **({"global_step": 1} | wrong))

    assert not small.manager.checkpoints.exists() or list(small.manager.checkpoints.iterdir()) == []


def test_numbers_of_numpy_and_torch_are_numbers(small: Any) -> None:
    numbers = {"global_step": np.int64(3), "epoch": np.int32(2), "loss": torch.tensor(1.5)}

    folder = small.manager.save_checkpoint(small.model, None, small.optimizer, **numbers)

    manifest = read_manifest(folder)
    assert (manifest.step, manifest.consumed.epoch, manifest.loss) == (3, 2, 1.5)


def test_saving_the_same_step_twice_is_saving_once(small: Any) -> None:
    before = (small.save(1) / MANIFEST_NAME).read_bytes()

    with fs.using(Tracing()) as trace:
        folder = small.save(1)

    assert (folder / MANIFEST_NAME).read_bytes() == before
    assert not any(operation.name == "open_new" for operation in trace.operations)
    assert any(operation.name == "fsync_directory" for operation in trace.operations)


@pytest.mark.parametrize("order", [("full", "weights"), ("weights", "full")])
def test_a_step_that_is_milestone_and_rolling_is_one_full_permanent_checkpoint(small: Any, order: Any) -> None:
    small.update(1)
    labels = {"full": None, "weights": "chck_1M"}
    first = read_manifest(small.save(1, kind=order[0], label=labels[order[0]]))

    folder = small.save(1, kind=order[1], label=labels[order[1]])

    manifest = read_manifest(folder)
    assert (manifest.kind, manifest.milestone, manifest.label) == ("full", True, "chck_1M")
    assert manifest.supersedes == [first.self_digest]
    assert small.steps() == [1] and not list(small.manager.checkpoints.glob(".*"))
    expected = small.digest()
    assert small.manager.restore(small.model, small.optimizer).step == 1
    assert small.digest() == expected


def test_rolling_checkpoints_are_removed_by_step_and_milestones_stay(small: Any) -> None:
    for step in range(1, 7):
        small.update(step)
        small.save(step, milestone=step in (1, 4))

    assert small.steps() == [1, 4, 5, 6]
    assert (small.manager.run_dir / "latest").readlink() == Path("checkpoints/step-00000006")


def test_steps_that_the_config_spells_out_are_milestones(small: Any) -> None:
    config = small.manager.config
    training = msgspec.structs.replace(config.training, checkpoint_schedule=(2, "epochs"))
    small.manager = CheckpointManager(msgspec.structs.replace(config, training=training), small.root, "c")
    for step in range(1, 6):
        small.update(step)
        small.save(step)

    assert small.steps() == [2, 4, 5]


def test_going_back_to_a_step_puts_the_later_ones_aside_and_keeps_the_new_ones(small: Any) -> None:
    for step in (1, 2, 3):
        small.update(step)
        small.save(step, milestone=True)

    assert small.manager.restore(small.model, small.optimizer, step=1).step == 1
    assert [info.step for info in small.manager.rewind(1)] == [2, 3]
    small.update(9)
    small.save(2)

    assert small.steps() == [1, 2]
    assert small.quarantined() == ["step-00000002", "step-00000003"]


def test_large_weights_are_cut_into_shards_that_load_again(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from foundry_train import checkpointing, committing

    def in_shards(*arguments: Any, **settings: Any) -> Any:
        return committing.commit(*arguments, **settings, shard_bytes=3000)

    monkeypatch.setattr(checkpointing, "commit", in_shards)
    folder = small.save(1)
    expected = small.digest()
    small.update(1)

    small.manager.restore(small.model, small.optimizer)

    assert small.digest() == expected
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in folder.glob("model-*.safetensors")}
    assert len(set(index["weight_map"].values())) > 1


def test_a_state_of_another_step_is_a_mistake_of_the_caller(small: Any) -> None:
    with pytest.raises(ValueError, match="global_step is 2, but the state says step 1"):
        small.save(2, state=TrainState(step=1))


def test_an_asynchronous_save_holds_the_moment_of_the_call(background: Any) -> None:
    background.update(1)
    expected = background.digest()

    background.save_async(1)
    with torch.no_grad():
        for parameter in background.model.parameters():
            parameter.fill_(7.0)
    background.manager.wait()

    background.manager.restore(background.model, background.optimizer)
    assert background.digest() == expected


def is_begin_or_end_of_a_save(operation: Operation) -> bool:
    begins = operation.name == "mkdir" and Path(operation.path).name.startswith(".tmp-")
    return begins or (operation.name == "rename" and Path(operation.target).name.startswith("step-"))


def test_one_asynchronous_save_is_in_flight_at_most(background: Any) -> None:
    with fs.using(Tracing()) as trace:
        for step in (1, 2, 3):
            background.update(step)
            background.save_async(step)
        background.manager.wait()

    order = [each.name for each in trace.operations if is_begin_or_end_of_a_save(each)]
    assert order == ["mkdir", "rename"] * 3


def test_without_background_writing_the_same_call_writes_before_it_returns(small: Any) -> None:
    small.save_async(1)

    assert small.steps() == [1]
    assert small.manager.durable_step == 1


def test_a_save_makes_no_folder_in_a_run_that_has_been_moved_away(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        write_folder(tmp_path / "gone" / "checkpoints", 1, Contents(10, lambda: iter(()), lambda _: b"{}"))

    assert list(tmp_path.iterdir()) == []


def test_files_follow_the_umask(small: Any) -> None:
    before = os.umask(0o027)
    try:
        folder = small.save(1)
    finally:
        os.umask(before)

    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o640}


def test_a_scheduler_or_scaler_that_was_not_saved_is_left_as_it_is(
    small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    small.save(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    small.manager.restore(small.model, small.optimizer, scaler)

    assert scaler.get_scale() == 4.0
    assert "holds no loss scale" in caplog.text
