"""Public names that are imported when they are first asked for."""

import sys

import pytest

from foundry_config.loading_later import later


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "late_package"
    folder.mkdir()
    init = "from foundry_config.loading_later import later\n"
    init += "__getattr__, __dir__ = later(__name__, {'part': ('thing', 'other'), 'gone': ('lost',)})\n"
    (folder / "__init__.py").write_text(init)
    (folder / "part.py").write_text("thing, other = object(), 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    import late_package  # pyright: ignore[reportMissingImports]

    yield late_package
    for name in [name for name in sys.modules if name.startswith("late_package")]:
        del sys.modules[name]


def test_a_name_is_imported_when_it_is_first_asked_for_and_remembered(package):
    assert "late_package.part" not in sys.modules

    thing = package.thing

    assert thing is sys.modules["late_package.part"].thing and vars(package)["thing"] is thing
    assert "other" in dir(package) and package.other == 2


def test_an_unknown_name_and_one_without_its_module_say_so(package):
    with pytest.raises(AttributeError, match="module 'late_package' has no attribute 'thin'"):
        package.thin
    with pytest.raises(ModuleNotFoundError, match="gone"):
        package.lost


def test_the_functions_belong_to_the_package_that_they_were_made_for():
    get, names = later(__name__, {"nowhere": ("anything",)})

    assert "anything" in names() and "later" in names()
    with pytest.raises(AttributeError, match=__name__):
        get("something")
