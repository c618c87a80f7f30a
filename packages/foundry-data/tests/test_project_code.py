"""Functions of a project, as they stand on disk."""

import importlib
import sys

import pytest

from foundry_config.errors import ConfigError
from foundry_data.project_code import load_function, project_files, project_fingerprint


def write(folder, **modules):
    for name, source in modules.items():
        path = folder / f"{name.replace('_in_', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)


def call(folder, reference="project_steps:step"):
    return load_function(reference, folder, kind="step")()


def test_an_edited_module_is_imported_again(tmp_path):
    write(tmp_path, project_steps="def step(): return 'old'")
    assert call(tmp_path) == "old"

    write(tmp_path, project_steps="def step(): return 'new'")

    assert call(tmp_path) == "new"


def test_an_edited_module_that_is_imported_by_the_step_is_imported_again(tmp_path):
    write(tmp_path, project_steps="import project_words\ndef step(): return project_words.X", project_words="X = 1")
    assert call(tmp_path) == 1

    write(tmp_path, project_words="X = 2")

    assert call(tmp_path) == 2


def test_two_projects_may_call_their_modules_the_same(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, project_steps="from project_words import X\ndef step(): return X")
        write(tmp_path / name, project_words=f"X = {name!r}")

    assert [call(tmp_path / name) for name in ("one", "two", "one")] == ["one", "two", "one"]


def test_the_project_goes_before_a_module_of_the_same_name_that_the_caller_imported(tmp_path, monkeypatch):
    write(tmp_path / "caller", project_steps="def step(): return 'caller'")
    write(tmp_path / "project", project_steps="def step(): return 'project'")
    monkeypatch.syspath_prepend(str(tmp_path / "caller"))
    sys.modules.pop("project_steps", None)
    importlib.import_module("project_steps")

    assert call(tmp_path / "project") == "project"


def test_a_module_that_did_not_change_is_imported_once(tmp_path):
    write(tmp_path, project_steps="def step(): return 1")

    first, second = (load_function("project_steps:step", tmp_path, kind="step") for _ in range(2))

    assert first is second


@pytest.mark.parametrize(
    "edited", ["project_steps", "project_words", "package_in_inner", "package_in___init__", "package_in_deep"]
)
def test_the_fingerprint_follows_every_module_of_the_project_that_is_imported(tmp_path, edited):
    sources = {
        "project_steps": "import project_words\nfrom package import inner\ndef step(): pass\n",
        "project_words": "X = 1\n",
        "package_in___init__": "\n",
        "package_in_inner": "from .deep import Y\n",
        "package_in_deep": "Y = 1\n",
        "unrelated": "Z = 1\n",
    }
    write(tmp_path, **sources)
    before = project_fingerprint("project_steps:step", tmp_path)

    write(tmp_path, unrelated="Z = 2\n")
    assert project_fingerprint("project_steps:step", tmp_path) == before
    write(tmp_path, **{edited: sources[edited] + "# edited\n"})

    assert project_fingerprint("project_steps:step", tmp_path) != before


def test_the_fingerprint_does_not_depend_on_where_the_project_lies(tmp_path):
    for name in ("here", "there"):
        write(tmp_path / name, project_steps="import project_words\ndef step(): pass", project_words="")

    here, there = (project_fingerprint("project_steps:step", tmp_path / name) for name in ("here", "there"))

    assert here == there


def test_of_an_installed_package_only_its_own_modules_count():
    importlib.import_module("json.decoder")

    assert set(project_files("json.decoder")) == {"json", "json.decoder", "json.encoder", "json.scanner"}
    assert project_files("builtins") == {}


def test_a_module_that_is_gone_is_not_found_any_more(tmp_path):
    write(tmp_path, project_steps="def step(): return 1")
    call(tmp_path)
    (tmp_path / "project_steps.py").unlink()

    with pytest.raises(ConfigError, match="cannot import module 'project_steps'"):
        call(tmp_path)
