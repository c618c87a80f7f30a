"""Fixtures of the crash tests: the miniature run, its scripts as subprocesses, and the numbers for the last lines."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
_NUMBERS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """The module harness.py."""
    return _module("harness")


@pytest.fixture(scope="session")
def power_cut() -> ModuleType:
    """The module power_cut.py."""
    return _module("power_cut")


@pytest.fixture
def fast_path(harness: ModuleType) -> Iterator[Path]:
    """A folder in memory, where there is some."""
    with tempfile.TemporaryDirectory(dir=harness.scratch_root()) as folder:
        yield Path(folder)


@pytest.fixture
def small(harness: ModuleType, fast_path: Path) -> Any:
    """A model of two thousand weights and the manager of its checkpoints; it saves while the caller waits."""
    return harness.Small(fast_path)


@pytest.fixture
def background(harness: ModuleType, fast_path: Path) -> Any:
    """The same, saving in a thread."""
    return harness.Small(fast_path, background=True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run_scripts() -> Callable[[list[list[str]]], list[dict[str, Any]]]:
    """Run scripts of this folder at the same time; returns the JSON that each one prints."""

    def run(commands: list[list[str]]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(len(commands)) as pool:
            return list(pool.map(_run_script, commands))

    return run


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say a number at the end of the test session."""
    return request.config.stash.setdefault(_NUMBERS, []).append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    lines = config.stash.get(_NUMBERS, [])
    if lines:
        terminalreporter.section("reliability")
        for line in lines:
            terminalreporter.write_line(line)


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"crash_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # NamedTuple looks its module up
    spec.loader.exec_module(module)
    return module


def _run_script(command: list[str]) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(HERE / command[0]), *command[1:]]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
