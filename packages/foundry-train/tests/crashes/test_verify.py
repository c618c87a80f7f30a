"""Verification finds what is wrong with a run, an export or a lone file, and says nothing is wrong when nothing is."""

import json
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foundry_train.verify
from foundry_config.errors import CheckpointError
from foundry_config.spoken_numbers import speakable
from foundry_train.checkpoint_list import CheckpointInfo, list_checkpoints
from foundry_train.lineage import append_event
from foundry_train.manifest import MANIFEST_NAME, Manifest, ParentLink, WeightsSummary, read_manifest, seal
from foundry_train.verify import VerifyReport, verify_folder, verify_run
from foundry_train.verify_records import check_metrics


@pytest.fixture(scope="module")
def finished(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    harness.train(root)
    return root / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def errors(report: VerifyReport) -> list[str]:
    return [str(finding) for finding in report.findings if finding.is_error]


def reseal(folder: Path, **changes: Any) -> None:
    (folder / MANIFEST_NAME).write_bytes(seal(msgspec.structs.replace(read_manifest(folder), **changes))[1])


def checkpoint(run: Path, step: int) -> Path:
    return run / f"checkpoints/step-{step:08d}"


def test_a_sound_run_is_sound(run: Path) -> None:
    report = verify_run(run)

    assert report.ok and errors(report) == []
    assert (report.checkpoints, report.files) == (3, 9)
    assert report.bytes > 10_000


def test_a_damaged_file_is_named_and_the_weights_are_judged_apart(run: Path) -> None:
    path = checkpoint(run, 4) / "trainer/state.json"
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))

    report = verify_run(run)

    assert errors(report) == [
        "error: step-00000004: trainer/state.json is damaged: its SHA-256 is not the one in the manifest"
    ]
    assert any("exactly those that were saved" in finding.message for finding in report.findings)


def test_unreadable_and_missing_parts_are_named(run: Path) -> None:
    (checkpoint(run, 4) / MANIFEST_NAME).unlink()
    (checkpoint(run, 3) / "model.safetensors").write_bytes(b"x" * 9)

    found = errors(verify_run(run))

    assert any("step-00000004: MANIFEST.json is missing" in line for line in found)
    assert any("step-00000003: model.safetensors has 9 bytes" in line for line in found)


def test_files_that_could_hold_code_are_errors_and_others_notes(run: Path) -> None:
    for name in ("pytorch_model.bin", "modeling.py", ".metadata", "notes.txt"):
        (checkpoint(run, 4) / name).write_text("x")

    report = verify_run(run)

    assert len(errors(report)) == 3
    assert sum("notes.txt" in finding.where for finding in report.findings) == 1


def test_weights_that_stand_under_two_steps_are_found(run: Path) -> None:
    twin = Path(shutil.copytree(checkpoint(run, 4), checkpoint(run, 7)))
    reseal(twin, step=7)

    assert any("step-00000007: holds the same weights as step 4" in line for line in errors(verify_run(run)))


def test_weights_that_no_update_changed_may_be_equal(run: Path) -> None:
    twin = Path(shutil.copytree(checkpoint(run, 4), checkpoint(run, 5)))
    reseal(twin, step=5)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "step", "step": 5, "lr": 0.0}) + "\n")

    assert verify_run(run).ok


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        (ParentLink(3, "sha256:wrong"), "its parent is another step 3"),
        (ParentLink(9, "sha256:wrong"), "which is not before it"),
    ],
)
def test_a_broken_chain_is_found(run: Path, parent: ParentLink, message: str) -> None:
    reseal(checkpoint(run, 4), parent=parent)

    assert any(message in line for line in errors(verify_run(run)))


def test_a_parent_digest_under_another_step_is_found_and_an_unknown_one_only_noted(run: Path) -> None:
    third = read_manifest(checkpoint(run, 3)).self_digest
    reseal(checkpoint(run, 4), parent=ParentLink(2, third))
    assert any("names step 2 as parent, but that digest is of step 3" in line for line in errors(verify_run(run)))

    reseal(checkpoint(run, 4), parent=ParentLink(1, "sha256:unknown"))
    report = verify_run(run)
    assert any("neither here nor in the lineage" in finding.message for finding in report.findings)


def test_a_parent_that_retention_removed_is_known_from_the_lineage(run: Path) -> None:
    assert not checkpoint(run, 1).exists()
    assert read_manifest(checkpoint(run, 2)).parent is not None

    assert not any("lineage" in finding.message for finding in verify_run(run).findings)


def test_a_foreign_checkpoint_a_lost_milestone_and_the_quarantine_are_reported(run: Path) -> None:
    reseal(checkpoint(run, 4), run_id="foreign")
    shutil.rmtree(checkpoint(run, 2))
    (run / "checkpoints/.quarantine/step-00000009").mkdir(parents=True)

    report = verify_run(run)

    assert any("belongs to the run foreign" in line for line in errors(report))
    assert any("step-00000002: was saved as a milestone and is gone" in line for line in errors(report))
    assert any(finding.message == "was put aside" for finding in report.findings)
    (run / "run.json").write_text("{}")
    assert any("run.json" in line for line in errors(verify_run(run)))


def test_a_replay_compares_the_newest_stretch(run: Path) -> None:
    asked = []
    expected = read_manifest(checkpoint(run, 4)).weights.digest

    def replayer(start: Any, to_step: int) -> str:
        asked.append((start.step, to_step))
        return expected

    report = verify_run(run, replay=1, replayer=replayer)
    assert report.ok and report.replayed == (3, 4) == asked[0]
    other = verify_run(run, replay=1, replayer=lambda start, step: "sha256:other")
    assert any("training again from step 3 reaches other weights" in line for line in errors(other))
    with pytest.raises(ValueError, match="needs a replayer"):
        verify_run(run, replay=1)


@pytest.mark.parametrize(("limit", "stretch"), [(1, (4, 5)), (2, (3, 5)), (9, (3, 5))])
def test_a_replay_repeats_as_many_steps_as_it_may(
    harness: ModuleType, tmp_path: Path, limit: int, stretch: Any
) -> None:
    harness.train(tmp_path, harness.Variant(steps=5, keep=3))

    report = verify_run(tmp_path / "run", replay=limit, replayer=lambda start, step: "sha256:other")

    assert report.replayed == stretch


def test_a_replay_without_a_short_enough_stretch_is_noted(run: Path) -> None:
    shutil.rmtree(checkpoint(run, 3))

    report = verify_run(run, replay=5, replayer=lambda start, step: "")

    assert report.replayed is None
    assert any("nothing was repeated" in finding.message for finding in report.findings)


def test_equal_runs_do_not_part(run: Path, finished: Path) -> None:
    report = verify_run(run, against=finished)

    assert report.ok
    assert any("4 steps compared" in finding.message for finding in report.findings)
    assert any("3 checkpoints of the same steps compared" in finding.message for finding in report.findings)


def test_runs_that_have_nothing_in_common_were_not_compared(run: Path, finished: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    (run / "metrics.jsonl").write_text("")

    report = verify_run(run, against=finished)

    assert not report.ok
    assert any("nothing could be compared" in finding.message for finding in report.findings if finding.is_error)


def test_the_first_step_checkpoint_and_tensor_that_differ_are_named(
    harness: ModuleType, run: Path, tmp_path: Path
) -> None:
    harness.train(tmp_path / "other", harness.Variant(dropout=0.2))

    found = errors(verify_run(run, against=tmp_path / "other/run"))

    assert any("step 1: loss differs first here" in line for line in found)
    assert any("step-00000002: the weights differ first here, in the tensor '0.weight'" in line for line in found)


def test_another_batch_is_told_from_another_loss(run: Path, finished: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    other = [json.dumps(json.loads(line) | {"tokens": 5}) for line in lines]
    mine = [json.dumps(json.loads(line) | {"tokens": 4}) for line in lines]
    twin = Path(shutil.copytree(run, run.parent / "twin", symlinks=True))
    (run / "metrics.jsonl").write_text("\n".join(mine) + "\n")
    (twin / "metrics.jsonl").write_text("\n".join(other) + "\n")

    assert any(
        "the batch differs first here (tokens: 4 and 5)" in line for line in errors(verify_run(run, against=twin))
    )


def test_an_export_is_verified_by_itself_and_as_a_family(run: Path, tmp_path: Path) -> None:
    family = tmp_path / "family"
    for step, name in ((2, "chck_2M"), (4, "chck_4M")):
        shutil.copytree(checkpoint(run, step), family / name)

    assert verify_folder(family / "chck_2M").ok
    assert verify_folder(family).checkpoints == 2 and verify_folder(family).ok
    assert verify_folder(run).checkpoints == 3
    (family / "chck_4M/model.safetensors").write_bytes(b"x")
    assert not verify_folder(family).ok


def test_weights_alone_are_compared_with_what_they_say_of_themselves(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(checkpoint(run, 4) / "model.safetensors", lone)
    assert verify_folder(lone).ok
    tensors = load_file(lone / "model.safetensors")

    save_file(tensors, lone / "model.safetensors")
    assert any("nothing to compare with" in finding.message for finding in verify_folder(lone).findings)
    save_file(tensors, lone / "model.safetensors", {"foundry.weights": "sha256:other"})
    assert not verify_folder(lone).ok


def test_prepared_token_stores_are_verified_by_themselves_and_together(tmp_path: Path) -> None:
    from foundry_data.sentencepiece_training import train_tokenizer
    from foundry_data.store_build import build_store

    tokenizer = train_tokenizer(["a b c"] * 9, vocab_size=8, model_type="char", byte_fallback=False)
    train, test = (build_store(["a b", "c"], tokenizer, tmp_path / name).folder for name in ("train-1", "test-1"))
    sound = verify_folder(tmp_path)
    (train / "tokens-00000.bin").write_bytes(bytes((train / "tokens-00000.bin").stat().st_size))

    assert sound.ok and (sound.checkpoints, sound.files) == (0, 2 * 8)
    assert verify_folder(test).ok
    for folder in (train, tmp_path):
        (finding,) = verify_folder(folder).findings
        assert finding.is_error and "train-1 is damaged: tokens-00000.bin differs" in finding.message


def test_what_is_no_run_and_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run directory"):
        verify_run(tmp_path)
    with pytest.raises(CheckpointError, match="nothing to verify"):
        verify_folder(tmp_path / "missing")


def removing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let retention remove a checkpoint when its files are about to be hashed."""
    real = foundry_train.verify.file_problems

    def problems(path: Path, manifest: Any) -> list[str]:
        if path == folder:
            shutil.rmtree(path)
        return real(path, manifest)

    monkeypatch.setattr(foundry_train.verify, "file_problems", problems)


def test_a_checkpoint_that_retention_removes_meanwhile_is_a_note(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removing(monkeypatch, checkpoint(run, 3))

    report = verify_run(run)

    assert report.ok and report.checkpoints == 2
    assert [str(finding) for finding in report.findings] == [
        "note: step-00000003: was removed by the run while it was verified"
    ]


def test_a_milestone_that_is_removed_meanwhile_is_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reseal(checkpoint(run, 2), milestone=True)
    removing(monkeypatch, checkpoint(run, 2))

    assert errors(verify_run(run)) == [
        "error: step-00000002: a milestone, which no run removes, was removed while it was verified"
    ]


def test_a_single_checkpoint_that_is_removed_meanwhile_is_said_to_be(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing(monkeypatch, checkpoint(run, 3))

    with pytest.raises(CheckpointError, match="step-00000003 was removed while it was read"):
        verify_folder(checkpoint(run, 3))


def test_a_milestone_that_is_saved_after_the_listing_is_not_missed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed_before_a_save(checkpoints: Path) -> Any:
        found = list_checkpoints(checkpoints)
        append_event(run, {"event": "save", "step": 9, "milestone": True, "manifest": "sha256:9"})
        return found

    monkeypatch.setattr(foundry_train.verify, "list_checkpoints", listed_before_a_save)

    assert verify_run(run).ok


def config_with(run: Path, **training: Any) -> None:
    config = json.loads((run / "config.json").read_bytes())
    config["training"] |= training
    (run / "config.json").write_text(json.dumps(config))


def test_a_config_that_is_not_the_one_of_the_run_is_found(run: Path) -> None:
    config_with(run, keep_checkpoints=9)
    assert verify_run(run).ok  # free to change from start to start

    config_with(run, learning_rate=0.5)
    assert any("config.json: is not the one that run.json was made with" in line for line in errors(verify_run(run)))
    (run / "config.json").write_text('{"experiment_name": 1}')
    assert any("config.json: cannot be read back: " in line for line in errors(verify_run(run)))
    (run / "config.json").write_text("[")
    assert any("config.json: cannot be read back: " in line for line in errors(verify_run(run)))
    (run / "config.json").unlink()
    assert any("config.json: is missing; run.json was made with" in line for line in errors(verify_run(run)))


def test_a_run_that_never_began_need_not_have_a_config(run: Path) -> None:
    for name in ("config.json", "metrics.jsonl", "lineage.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")

    assert verify_run(run).ok


def test_metrics_that_are_gone_or_no_records_are_found(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    with metrics.open("ab") as file:
        file.write(b'{"kind":"step","st')  # torn by a crash, or just being written
    assert verify_run(run).ok

    with metrics.open("ab") as file:
        file.write(b"\n[]\n\xff\n{}\n")
    assert errors(verify_run(run)) == ["error: metrics.jsonl:5: is no record, and 2 more"]
    metrics.unlink()
    assert errors(verify_run(run)) == ["error: metrics.jsonl: is missing"]
    metrics.mkdir()
    assert errors(verify_run(run)) == ["error: metrics.jsonl: cannot be read: Is a directory"]


def step_record(step: int, loss: Any, **more: Any) -> str:
    return json.dumps({"kind": "step", "attempt": 1, "step": step, "loss": loss, **more}) + "\n"


@given(loss=st.floats(allow_nan=False, allow_infinity=False), other=st.floats())
def test_a_loss_is_that_of_the_manifest_exactly(loss: float, other: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        info = written_checkpoint(Path(folder), loss=loss)
        metrics = Path(folder) / "metrics.jsonl"

        metrics.write_text(step_record(4, loss))
        assert list(check_metrics(Path(folder), [info])) == []
        metrics.write_text(step_record(4, speakable(other)))
        assert bool(list(check_metrics(Path(folder), [info]))) == (other != loss)


def written_checkpoint(folder: Path, **changes: Any) -> CheckpointInfo:
    values: dict[str, Any] = {"run_id": "r", "step": 4, "kind": "full", "files": {}}
    manifest = Manifest(**{**values, "weights": WeightsSummary("", 0, 0), **changes})
    return CheckpointInfo(folder / "step-00000004", manifest.step, manifest, None)


@pytest.mark.parametrize(
    ("checkpoint_of", "record", "is_error", "message"),
    [
        ({"loss": 2.5}, step_record(4, 2.0), True, "its loss is 2.5, metrics.jsonl says 2.0"),
        ({"loss": 2.5}, step_record(4, "nan"), True, "its loss is 2.5, metrics.jsonl says 'nan'"),
        ({"loss": 2.5}, step_record(5, 2.5), True, "metrics.jsonl has no record of its step"),
        ({"loss": 2.5}, step_record(3, 2.5), True, "metrics.jsonl has no record of its step"),
        ({"loss": 2.5}, step_record(4, 2.0, attempt=2), False, "metrics.jsonl says 2.0, in the later attempt 2"),
        ({"loss": 2.5, "attempt": 3}, step_record(4, 2.0), True, "its loss is 2.5, metrics.jsonl says 2.0"),
        ({"loss": 2.5, "kind": "weights"}, step_record(3, 2.0), False, "metrics.jsonl has no record of its step"),
        ({"loss": 2.5, "kind": "weights"}, step_record(5, 2.0), True, "metrics.jsonl has no record of its step"),
    ],
)
def test_a_checkpoint_that_metrics_contradict_is_found(
    tmp_path: Path, checkpoint_of: dict[str, Any], record: str, is_error: bool, message: str
) -> None:
    (tmp_path / "metrics.jsonl").write_text(record)

    (finding,) = check_metrics(tmp_path, [written_checkpoint(tmp_path, **checkpoint_of)])

    assert (finding.is_error, finding.where) == (is_error, "step-00000004") and finding.message.endswith(message)


def test_an_update_that_was_left_out_has_no_loss_to_compare(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(step_record(4, "nan"))

    assert list(check_metrics(tmp_path, [written_checkpoint(tmp_path, loss=None)])) == []
