"""What holds for every file of the repository: no path of one machine, no package index, small and whole packages."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml"))
TEXT = {".py", ".toml", ".yml", ".yaml", ".md", ".sh", ".json", ".css", ".js", ".sbatch", ""}

ABSOLUTE = re.compile(r"""["'=(`\s](/(?:home|root|work|Users|opt|mnt|data)/[A-Za-z0-9._-]+)""")
INDEX = re.compile(
    r"--(?:extra-)?index-url|--default-index|\[\[tool\.uv\.index\]\]|https?://[^\s)]*(?:pypi|download\.pytorch)\.org"
)
LEFTOVER = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b")


@cache
def files() -> tuple[Path, ...]:
    """All files that git tracks, or would; a copy without git has its folders walked instead."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:
        names = [
            str(path.relative_to(ROOT))
            for part in ("packages", "tests-e2e", "docs")
            for path in (ROOT / part).rglob("*")
        ]
    return tuple(ROOT / name for name in names if (ROOT / name).is_file())


def lines_matching(pattern: re.Pattern[str], *, skip: set[str]) -> list[str]:
    found = []
    for path in files():
        if path.name in skip or path.suffix not in TEXT:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    return found


def test_no_file_names_an_absolute_path_of_some_machine():
    assert lines_matching(ABSOLUTE, skip={"uv.lock", Path(__file__).name}) == []


def test_no_file_configures_a_package_index():
    assert lines_matching(INDEX, skip={"uv.lock", Path(__file__).name}) == []


def test_no_file_holds_unfinished_work():
    found = lines_matching(LEFTOVER, skip=set())

    assert [line for line in found if "/src/" in line.split(":")[0]] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_source_files_are_small_and_their_functions_are_short(package):
    too_long = []
    for path in (ROOT / "packages" / package / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            too_long.append(f"{path.name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 80:
                too_long.append(f"{path.name}: {node.name} has {(node.end_lineno or 0) - node.lineno + 1} lines")

    assert too_long == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_begins_with_what_it_does(package):
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "packages" / package / "src").rglob("*.py")
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert silent == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_all_that_a_package_of_its_own_needs(package):
    folder = ROOT / "packages" / package
    module = package.replace("-", "_")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    for name in ("README.md", "CHANGELOG.md", f"src/{module}/py.typed", f"src/{module}/__init__.py", "tests"):
        assert (folder / name).exists(), f"{package} has no {name}"
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project["license-files"] == ["LICENSE"]  # the wheel brings it along
    assert project["name"] == package
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["requires-python"] == ">=3.11"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_states_ranges_of_its_siblings(package):
    text = (ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8")
    siblings = [item for item in tomllib.loads(text)["project"]["dependencies"] if item.startswith("foundry-")]

    assert [item for item in siblings if not re.search(r">=\d+\.\d+,<\d+\.\d+$", item)] == []
