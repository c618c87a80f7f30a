"""PyTorch's shared libraries come before PyTorch, and nothing breaks where they cannot."""

import subprocess
import sys

import pytest

from foundry_cli.libraries import map_shared_libraries

MAPPED_FIRST = """
import sys
from pathlib import Path
from foundry_cli import libraries

def watched(folder, real=libraries.map_shared_libraries):
    before = is_mapped()
    real(folder)
    seen.append((before, is_mapped(), "torch" in sys.modules))

def is_mapped():
    return "libtorch_cpu.so" in Path("/proc/self/maps").read_text()

seen = []
libraries.map_shared_libraries = watched
libraries.load_libraries()
assert seen == [(False, True, False)], seen
assert {"torch", "transformers.models"} <= set(sys.modules)
assert sys.modules["torch"].linalg.inv(2 * sys.modules["torch"].eye(3)).sum() == 1.5
assert libraries._torch_folder() is None  # nothing is left to do
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the names of the libraries are those of Linux")
def test_libraries_are_mapped_before_torch_is_imported_and_torch_works_on_them():
    done = subprocess.run([sys.executable, "-c", MAPPED_FIRST], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_without_libraries_changes_nothing(tmp_path, capfd):
    (tmp_path / "libtorch.so").write_text("not a library")

    map_shared_libraries(tmp_path)
    map_shared_libraries(tmp_path / "missing")
    map_shared_libraries(None)

    assert capfd.readouterr() == ("", "")
