"""Exported folders: copied whole and verified, with a card and a manifest of their own."""

import hashlib

import pytest

from foundry_config.errors import CheckpointError, ConfigError, StorageError
from foundry_train.evaluation_targets import find_models
from foundry_train.export import export_checkpoint, revision_names
from foundry_train.export.push import push_folders
from foundry_train.manifest import Consumed, FileEntry, Manifest, WeightsSummary, read_manifest, seal

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "trainer/state.json": b"{}",
}


@pytest.fixture
def make_checkpoint(tmp_path):
    def make(step=10, label=None):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        (folder / "trainer").mkdir(parents=True)
        for name, content in FILES.items():
            (folder / name).write_bytes(content)
        entries = {n: FileEntry(len(c), hashlib.sha256(c).hexdigest()) for n, c in FILES.items()}
        manifest = Manifest(
            run_id="r",
            step=step,
            kind="full",
            label=label,
            files=entries,
            weights=WeightsSummary("sha256:abc", 1, 1234567),
            consumed=Consumed(samples=5, tokens=640, words=300),
            experiment_name="study",
            model_config={"model_type": "llama"},
        )
        (folder / "MANIFEST.json").write_bytes(seal(manifest)[1])
        return folder

    return make


def test_an_export_holds_the_model_without_the_state_of_the_trainer(make_checkpoint, tmp_path):
    exported = export_checkpoint(make_checkpoint(), tmp_path / "model")

    names = {path.name for path in (tmp_path / "model").rglob("*")}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "README.md", "MANIFEST.json"}
    assert read_manifest(tmp_path / "model") == exported
    assert exported.kind == "weights" and exported.weights.digest == "sha256:abc"


def test_the_model_card_tells_what_the_manifest_knows(make_checkpoint, tmp_path):
    export_checkpoint(make_checkpoint(label="chck_1M"), tmp_path / "model")

    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert "step 10, chck_1M" in card and "1,234,567" in card and "| words | 300 |" in card and "sha256:abc" in card


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_named_and_nothing_is_left_behind(make_checkpoint, tmp_path, name):
    checkpoint = make_checkpoint()
    (checkpoint / name).write_bytes(FILES[name].replace(b"w", b"W").replace(b"{", b"["))

    with pytest.raises(CheckpointError, match=name):
        export_checkpoint(checkpoint, tmp_path / "model")

    assert not (tmp_path / "model").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_missing_file_is_named(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint()
    (checkpoint / "config.json").unlink()

    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        export_checkpoint(checkpoint, tmp_path / "model")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="MANIFEST"):
        export_checkpoint(tmp_path, tmp_path / "model")


def test_an_existing_folder_is_not_overwritten(make_checkpoint, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("keep")

    with pytest.raises(ConfigError, match="exists already"):
        export_checkpoint(make_checkpoint(), tmp_path / "model")

    assert (tmp_path / "model" / "mine.txt").read_text() == "keep"


def test_revisions_are_called_by_label_and_the_newest_is_main_too(make_checkpoint):
    folders = [make_checkpoint(20), make_checkpoint(5, label="chck_1M")]

    assert revision_names(folders) == {"chck_1M": folders[1], "step-00000020": folders[0], "main": folders[0]}


def test_a_run_without_checkpoints_has_no_revisions():
    with pytest.raises(CheckpointError, match="no checkpoint"):
        revision_names([])


class FakeHub:
    """Remembers what was uploaded; refuses one branch if told to."""

    def __init__(self, refused=None):
        self.calls = []
        self.refused = refused

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("repo", repo_id, private))

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.calls.append(("branch", branch))

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message):
        if revision == self.refused:
            raise ConnectionError("no route")
        self.calls.append(("upload", revision, folder_path))


def test_each_revision_becomes_a_branch(tmp_path):
    hub = FakeHub()

    done = push_folders({"chck_1M": tmp_path / "a", "main": tmp_path / "b"}, "me/model", api=hub)

    assert done == ["chck_1M", "main"]
    assert hub.calls == [
        ("repo", "me/model", True),
        ("branch", "chck_1M"),
        ("upload", "chck_1M", str(tmp_path / "a")),
        ("upload", "main", str(tmp_path / "b")),
    ]


def test_a_refused_upload_names_the_branch_and_what_is_there_already(tmp_path):
    with pytest.raises(StorageError, match=r"upload of 'b' to 'me/model' failed: no route; already uploaded: a"):
        push_folders({"a": tmp_path, "b": tmp_path}, "me/model", api=FakeHub(refused="b"))


def test_an_exported_checkpoint_starts_texts_with_the_token_of_its_run(make_run, tmp_path):
    (checkpoint,), _ = find_models(make_run())

    export_checkpoint(checkpoint.path, tmp_path / "model")
    export_checkpoint(tmp_path / "model", tmp_path / "again")

    assert checkpoint.start == "eos"
    assert [find_models(tmp_path / name)[0][0].start for name in ("model", "again")] == ["eos", "eos"]
