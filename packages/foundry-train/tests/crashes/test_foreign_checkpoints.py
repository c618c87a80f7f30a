"""Checkpoints that are damaged, foreign or hostile: refused or put aside by name, never read further, never lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from foundry_config.errors import CheckpointError, NonFiniteError, ResumeMismatchError
from foundry_train.manifest import MANIFEST_NAME, read_manifest, seal


def test_other_weights_at_the_same_step_put_the_old_ones_into_quarantine(small: Any) -> None:
    small.save(1)
    small.update(1)

    small.save(1)

    assert small.quarantined() == ["step-00000001"]
    assert read_manifest(small.manager.checkpoints / "step-00000001").weights.digest == small.digest()
    reason = json.loads((small.manager.checkpoints / ".quarantine/step-00000001/reason.json").read_text())
    assert "its weights differ" in reason["reason"]


def test_a_damaged_checkpoint_of_the_same_step_is_put_aside_and_written_again(small: Any) -> None:
    folder = small.save(1)
    (folder / "trainer/state.json").write_text("{}")

    small.save(1)

    assert small.quarantined() == ["step-00000001"]
    assert small.manager.restore(small.model, small.optimizer).step == 1


def test_a_tokenizer_is_stored_without_anything_that_could_run(small: Any) -> None:
    class Tokenizer:
        def save_pretrained(self, path: str) -> None:
            for name in ("tokenizer.json", "tokenizer_config.json", "evil.py", "vocab.pkl"):
                (Path(path) / name).write_text("{}")

    folder = small.manager.save_checkpoint(small.model, Tokenizer(), small.optimizer, global_step=1)

    assert sorted(path.name for path in folder.iterdir()) == [
        "MANIFEST.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer",
    ]


def test_weights_that_are_not_finite_are_never_saved(small: Any) -> None:
    small.save(1)
    with torch.no_grad():
        small.model[1].weight[0, 0] = float("nan")  # type: ignore[index]

    with pytest.raises(NonFiniteError, match=r"the weights hold NaN or infinite numbers in 1\.weight"):
        small.save(2)

    assert small.steps() == [1]
    assert not list(small.manager.checkpoints.glob(".tmp*"))


def test_moments_that_are_not_finite_are_never_saved(small: Any) -> None:
    small.update(1)
    next(iter(small.optimizer.optimizers[0].state.values()))["exp_avg"].fill_(float("inf"))

    with pytest.raises(NonFiniteError, match="the optimizer's moments hold NaN"):
        small.save(1)


def test_nothing_to_load_says_where_it_looked(small: Any) -> None:
    with pytest.raises(CheckpointError, match=r"no full checkpoint in .*checkpoints; .* none"):
        small.manager.restore(small.model, small.optimizer)
    small.save(1)
    with pytest.raises(CheckpointError, match=r"no full checkpoint of step 7 in .*; steps that can be resumed: 1"):
        small.manager.restore(small.model, small.optimizer, step=7)


def test_a_checkpoint_of_another_run_is_refused_and_left_alone(small: Any) -> None:
    small.save(1)
    small.manager = small.new_manager()
    small.manager.set_identity(run_id="another")

    with pytest.raises(ResumeMismatchError, match=r"belongs to another run .* --fork"):
        small.manager.restore(small.model, small.optimizer)
    with pytest.raises(ResumeMismatchError, match=r"choose another training\.output_dir"):
        small.save(1)

    assert small.steps() == [1] and small.quarantined() == []


def test_a_checkpoint_of_a_newer_format_is_refused_and_left_alone(small: Any) -> None:
    folder = small.save(1)
    newer = msgspec.structs.replace(read_manifest(folder), format="foundry.checkpoint/2")
    (folder / MANIFEST_NAME).write_bytes(seal(newer)[1])

    with pytest.raises(CheckpointError, match="update the software"):
        small.manager.restore(small.model, small.optimizer)
    with pytest.raises(CheckpointError, match="update the software"):
        small.save(1)

    assert small.steps() == [1] and small.quarantined() == []


def test_a_model_of_another_shape_is_refused_and_the_checkpoint_left_alone(small: Any) -> None:
    small.save(1)
    other = nn.Sequential(nn.Embedding(32, 8))

    with pytest.raises(ResumeMismatchError, match="use the config that it was saved with"):
        small.manager.restore(other, None)
    with pytest.raises(ResumeMismatchError, match="does not hold the model's extra"):
        small.model.register_buffer("extra", torch.zeros(1))
        small.manager.restore(small.model, None)

    assert small.steps() == [1] and small.quarantined() == []


@pytest.mark.parametrize("planted", ["pytorch_model.bin", "training_state.pt", ".metadata", "modeling_evil.py"])
def test_planted_files_are_never_read(small: Any, planted: str) -> None:
    folder = small.save(1)
    (folder / planted).write_bytes(b"cos\nsystem\n(S'touch /nowhere'\ntR.")

    assert small.manager.restore(small.model, small.optimizer).step == 1


def test_a_symlink_in_place_of_a_file_or_folder_is_damage(small: Any) -> None:
    small.save(1)
    small.update(1)
    folder = small.save(2)
    (small.root / "elsewhere").mkdir()
    (folder / "trainer").rename(small.root / "elsewhere/trainer")
    (folder / "trainer").symlink_to(small.root / "elsewhere/trainer", target_is_directory=True)

    assert small.manager.restore(small.model, small.optimizer).step == 1
    reason = (small.manager.checkpoints / ".quarantine/step-00000002/reason.json").read_text()
    assert "trainer is a symlink" in reason
    assert (small.root / "elsewhere/trainer/state.json").exists()


def test_what_a_killed_process_left_half_written_or_half_removed_is_cleaned_up(small: Any) -> None:
    folder = small.save(1)
    for name in (".tmp-00000002-0123456789ab", ".trash-00000000-0123456789ab"):
        shutil.copytree(folder, small.manager.checkpoints / name)

    small.new_manager().clean_up()

    assert [path.name for path in small.manager.checkpoints.iterdir()] == ["step-00000001"]


def test_a_foreign_folder_or_link_among_the_checkpoints_is_left_alone(small: Any) -> None:
    small.save(1)
    checkpoints = small.manager.checkpoints
    (checkpoints / "step-00000009").symlink_to(checkpoints / "step-00000001", target_is_directory=True)
    for name in ("checkpoint-500", "step-final", ".tmp-mine", ".tmp-00000001-notours"):
        (checkpoints / name).mkdir()

    small.manager.clean_up()

    assert small.steps() == [1]
    assert len(list(checkpoints.iterdir())) == 6
