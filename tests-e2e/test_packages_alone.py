"""A package installed alone, as another project would have it: without its siblings above, without torch.

The environments are made by uv from the lock file and its cache, without network.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UV = os.environ.get("UV") or shutil.which("uv")  # `uv run` tells its children where it is

pytestmark = [pytest.mark.slow, pytest.mark.skipif(UV is None, reason="needs uv, and the tests were not started by it")]


def readme_example(package: str) -> str:
    """The first Python block of a package's README."""
    text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
    match = re.search(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert match, f"the README of {package} shows no Python example"
    return match.group(1)


def uv(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    variables.pop("VIRTUAL_ENV", None)
    return subprocess.run(
        [str(UV), *map(str, arguments)], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )


def python_with(package: str, folder: Path) -> Path:
    """Make an environment with the built wheel of one package and what it requires; return its interpreter."""
    result = uv(
        "sync", "--package", package, "--no-dev", "--no-editable", "--frozen", "--offline",
        UV_PROJECT_ENVIRONMENT=str(folder / "env"),
    )  # fmt: skip
    if result.returncode != 0 and "offline" in result.stderr.lower():
        pytest.skip("uv's cache does not hold the wheels that this environment needs")
    assert result.returncode == 0, result.stderr
    return folder / "env" / "bin" / "python"


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("foundry-config", ("foundry_data", "torch", "numpy")),
        ("foundry-data", ("foundry_model", "torch", "transformers", "datasets")),
    ],
)
def test_the_wheel_works_alone_and_runs_the_example_of_its_readme(package, absent, tmp_path):
    python = python_with(package, tmp_path)
    work = tmp_path / "work"
    work.mkdir()

    present = subprocess.run(
        [python, "-c", f"import importlib.util as u; print([m for m in {absent!r} if u.find_spec(m)])"],
        cwd=work, capture_output=True, text=True, check=True,
    )  # fmt: skip
    example = subprocess.run(
        [python, "-c", readme_example(package)], cwd=work, capture_output=True, text=True, check=False
    )

    assert present.stdout.strip() == "[]"
    assert example.returncode == 0, example.stderr


@pytest.mark.parametrize("package", sorted(path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml")))
def test_a_wheel_is_typed_and_holds_its_package_and_its_license_only(package, tmp_path):
    import zipfile

    result = uv("build", "--package", package, "--wheel", "--offline", "--out-dir", tmp_path)
    assert result.returncode == 0, result.stderr

    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    module = package.replace("-", "_")
    assert f"{module}/py.typed" in names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {module}
