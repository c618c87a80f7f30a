"""Finding a named choice."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config import ConfigError, DataError, did_you_mean, lookup, pick
from foundry_config.lookup import find_modules_in, module_exists, users_code

TABLE = {"adamw": 1, "sgd": 2, "muon": 3}


def test_a_known_name_is_taken_from_the_table():
    assert pick("sgd", TABLE, kind="optimizer") == 2


def test_an_unknown_name_is_refused_with_the_nearest_one_and_all():
    with pytest.raises(ConfigError, match=r"unknown optimizer 'adamv'. Did you mean 'adamw'\? Known: adamw, sgd, muon"):
        pick("adamv", TABLE, kind="optimizer")


def test_a_reference_is_imported():
    assert pick("math:sqrt", TABLE, kind="optimizer")(9) == 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module_x:f", "cannot import module 'no_such_module_x'"),
        ("math:sqr", "has no 'sqr'. Did you mean 'sqrt'"),
    ],
)
def test_a_reference_that_leads_nowhere_says_why(reference, message):
    with pytest.raises(ConfigError, match=message):
        pick(reference, TABLE, kind="optimizer")


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    functions = "import sys\ndef divide(x):\n    return 1 / x\ndef leave(x): sys.exit(x)\n"
    (tmp_path / "own_choices.py").write_text(functions)
    (tmp_path / "own_script.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("divide", r"raised ZeroDivisionError: division by zero \(own_choices.py, line 3\)"),
        ("leave", r"raised SystemExit: 0 \(own_choices.py, line 4\)"),
    ],
)
def test_what_a_users_function_raises_names_it_and_its_line(own_module, function, told):
    name = f"own_choices:{function}"
    chosen = pick(name, TABLE, kind="optimizer")

    with pytest.raises(ConfigError, match=f"optimizer '{name}' {told}"), users_code(name, kind="optimizer"):
        chosen(0)


def test_what_a_users_function_says_itself_passes_and_so_does_what_is_spared(own_module):
    with pytest.raises(DataError, match=r"^own words$"), users_code("own_choices:divide", kind="optimizer"):
        raise DataError("own words")
    with pytest.raises(MemoryError), users_code("m:f", kind="x", unless=lambda error: isinstance(error, MemoryError)):
        raise MemoryError


def test_what_a_known_name_raises_is_left_alone():
    with pytest.raises(ZeroDivisionError), users_code("sgd", kind="optimizer"):
        _ = 1 / 0


def test_a_module_that_ends_the_program_when_it_is_imported_does_not_end_ours(own_module):
    with pytest.raises(ConfigError, match="cannot import module 'own_script'"):
        pick("own_script:f", TABLE, kind="optimizer")


@given(st.text(max_size=20))
def test_a_hint_names_a_known_name_or_nothing(name):
    hint = did_you_mean(name, TABLE)

    assert hint == "" or any(repr(known) in hint for known in TABLE)


def test_modules_of_a_project_are_found_in_its_folder_and_not_in_that_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(lookup, "_projects", [])
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "its_choices.py").write_text(f"NAME = {folder.name!r}")
    (first / "only_there.py").write_text("NAME = 1")

    found = []
    for folder in (first, second, first, first):
        find_modules_in(folder)
        found.append(pick("its_choices:NAME", {}, kind="sink"))

    assert found == ["first", "second", "first", "first"]
    assert sys.path.count(str(first)) == 1 and str(second) not in sys.path
    assert module_exists("only_there:NAME") and not module_exists("nowhere:NAME")
    find_modules_in(second)
    assert not module_exists("only_there:NAME")
    with pytest.raises(ConfigError, match=rf"No module named 'only_there'; it is not installed, and not in {second}$"):
        pick("only_there:NAME", {}, kind="sink")
    sys.modules.pop("its_choices")


def test_a_module_of_the_project_does_not_hide_an_installed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(lookup, "_projects", [])
    (tmp_path / "msgspec.py").write_text("mine = 1")
    find_modules_in(tmp_path)

    with pytest.raises(ConfigError, match=r"module 'msgspec' has no 'mine'.* The module is .*msgspec.__init__.py"):
        pick("msgspec:mine", {}, kind="sink")


def test_what_is_installed_inside_an_earlier_project_is_not_dropped(tmp_path, monkeypatch):
    import msgspec

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(lookup, "_projects", [])
    find_modules_in(next(iter(msgspec.__path__)) + "/../..")
    find_modules_in(tmp_path)

    assert pick("msgspec:Struct", {}, kind="sink") is msgspec.Struct
    assert sys.modules["msgspec"] is msgspec
