"""The offline Hugging Face cache."""

import shutil

import pytest

import foundry_train.export.revisions
from foundry_config.errors import CheckpointError, ConfigError
from foundry_train.export.hub_cache import add_revision, repository_folder
from foundry_train.export.revisions import export_revisions, revision_names
from foundry_train.manifest import MANIFEST_NAME, Manifest, WeightsSummary, seal


@pytest.fixture
def files(tmp_path):
    (tmp_path / "source").mkdir()
    paths = {name: tmp_path / "source" / name for name in ("config.json", "model.safetensors")}
    for name, path in paths.items():
        path.write_bytes(f"content of {name}".encode())
    return paths


def test_a_revision_points_to_a_snapshot_with_every_file(tmp_path, files):
    folder = repository_folder(tmp_path / "cache", "local/babylm")

    snapshot = add_revision(folder, "chck_1M", files)

    assert folder.name == "models--local--babylm"
    assert (folder / "refs" / "chck_1M").read_text() == snapshot.name
    assert {p.name: p.read_bytes() for p in snapshot.iterdir()} == {n: p.read_bytes() for n, p in files.items()}


def test_huggingface_hub_itself_finds_each_revision(tmp_path, files):
    hub = pytest.importorskip("huggingface_hub")
    folder = repository_folder(tmp_path / "cache", "local/babylm")
    add_revision(folder, "chck_1M", files)
    files["model.safetensors"].write_bytes(b"later weights")
    add_revision(folder, "chck_2M", files)

    found = {
        revision: hub.try_to_load_from_cache(
            "local/babylm", "model.safetensors", cache_dir=tmp_path / "cache", revision=revision
        )
        for revision in ("chck_1M", "chck_2M", "chck_9M")
    }

    assert open(found["chck_1M"], "rb").read() == b"content of model.safetensors"  # noqa: SIM115, PTH123
    assert open(found["chck_2M"], "rb").read() == b"later weights"  # noqa: SIM115, PTH123
    assert found["chck_9M"] is None


def test_files_that_revisions_share_are_stored_once(tmp_path, files):
    folder = repository_folder(tmp_path, "name")
    add_revision(folder, "a", files)
    files["model.safetensors"].write_bytes(b"other")
    add_revision(folder, "b", files)

    assert len(list((folder / "blobs").iterdir())) == 3


def test_adding_the_same_revision_again_changes_nothing(tmp_path, files):
    folder = repository_folder(tmp_path, "name")

    assert add_revision(folder, "a", files) == add_revision(folder, "a", files)


@pytest.mark.parametrize("name", ["../evil", "a/b/c", "", "/etc", "a/..", "a b"])
def test_a_repository_name_that_could_leave_the_cache_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="owner/name"):
        repository_folder(tmp_path, name)


@pytest.mark.parametrize("revision", ["../main", "", "a/b", "..", "-x"])
def test_a_revision_that_could_leave_the_cache_is_refused(tmp_path, files, revision):
    with pytest.raises(ConfigError, match="revision"):
        add_revision(tmp_path / "repository", revision, files)


def labelled(folder, label, *, step=1, run_id="r"):
    """A checkpoint folder of nothing but a manifest."""
    manifest = Manifest(
        run_id=run_id, step=step, kind="weights", label=label, files={}, weights=WeightsSummary("", 0, 0)
    )
    folder.mkdir()
    (folder / MANIFEST_NAME).write_bytes(seal(manifest)[1])
    return folder


@pytest.mark.parametrize("label", ["../out", "/abs", "a/b", "a" * 300, "nul\0", "main"])
def test_a_label_that_cannot_name_a_revision_is_refused_before_anything_is_written(tmp_path, label):
    folder = labelled(tmp_path / "step-00000001", label)

    with pytest.raises(CheckpointError, match="step-00000001: its label '"):
        export_revisions([folder], tmp_path / "cache", "local/name")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001"]


def test_revisions_are_named_by_label_or_step_and_the_newest_is_main_as_well(tmp_path):
    folders = [labelled(tmp_path / "b", None, step=20), labelled(tmp_path / "a", "chck_1M", step=10)]

    assert revision_names(folders) == {"chck_1M": folders[1], "step-00000020": folders[0], "main": folders[0]}


@pytest.fixture
def unchecked(monkeypatch):
    """Exports that are copied and not opened by transformers."""
    monkeypatch.setattr(foundry_train.export.revisions, "export_checked", shutil.copytree)


def test_a_repository_of_another_run_is_refused_by_both_names_and_stays_as_it_is(tmp_path, unchecked):
    made = [labelled(tmp_path / str(step), f"chck_{step}M", step=step, run_id="one") for step in range(1, 6)]
    export_revisions(made, tmp_path / "cache", "me/x")
    before = sorted((tmp_path / "cache").rglob("*"))

    with pytest.raises(
        ConfigError, match=r"models--me--x holds revisions of the run one: .*chck_4M and 2 more\..* run two "
    ):
        export_revisions([labelled(tmp_path / "b", "chck_2M", run_id="two")], tmp_path / "cache", "me/x")

    assert sorted((tmp_path / "cache").rglob("*")) == before


def test_a_repository_that_somebody_else_made_is_refused(tmp_path, files, unchecked):
    add_revision(repository_folder(tmp_path / "cache", "gpt2"), "main", files)

    with pytest.raises(ConfigError, match="holds revisions of no run of ours: main"):
        export_revisions([labelled(tmp_path / "a", "chck_1M")], tmp_path / "cache", "gpt2")


def test_the_same_run_adds_revisions_and_another_one_has_a_repository_of_its_own(tmp_path, unchecked):
    first, second = labelled(tmp_path / "a", "chck_1M"), labelled(tmp_path / "b", "chck_2M", step=2)
    cache = tmp_path / "cache"
    export_revisions([first], cache, "me/x")

    export_revisions([first, second], cache, "me/x")
    export_revisions([labelled(tmp_path / "c", "chck_1M", run_id="two")], cache, "me/y")

    names = {folder.name: sorted(ref.name for ref in (folder / "refs").iterdir()) for folder in cache.iterdir()}
    assert names == {"models--me--x": ["chck_1M", "chck_2M", "main"], "models--me--y": ["chck_1M", "main"]}
