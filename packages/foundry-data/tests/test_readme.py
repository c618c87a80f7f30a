"""The example of the README runs as it stands, here and from the wheels in an environment of their own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]
CONFIG_PACKAGE = PACKAGE.parent / "foundry-config"


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), flags=re.DOTALL)
    return code


@pytest.mark.slow
def test_the_example_of_the_readme_runs(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    result = subprocess.run(
        [sys.executable, "-c", example()], capture_output=True, text=True, check=False, env=environment
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(8, 128)")


@pytest.mark.slow
def test_the_wheels_alone_run_the_example_without_torch_and_transformers(tmp_path):
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    if not CONFIG_PACKAGE.is_dir():
        pytest.skip("foundry-config is not beside this package")

    def run(*command: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)

    for package in (CONFIG_PACKAGE, PACKAGE):
        built = run(uv, "build", "--wheel", "--out-dir", str(tmp_path / "wheels"), str(package))
        assert built.returncode == 0, built.stderr
    wheels = [str(path) for path in sorted((tmp_path / "wheels").glob("*.whl"))]
    python = tmp_path / "venv" / "bin" / "python"
    assert run(uv, "venv", "--python", sys.executable, str(tmp_path / "venv")).returncode == 0
    installed = run(uv, "pip", "install", "--python", str(python), *wheels)
    if installed.returncode != 0 and "Failed to fetch" in installed.stderr:
        pytest.skip("the package index cannot be reached")
    assert installed.returncode == 0, installed.stderr
    absent = "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'transformers', 'datasets')))\n"

    result = run(str(python), "-I", "-c", absent + example())

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(8, 128)")
