"""`import foundry_config` is light, and the package keeps to its place in the order of packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import foundry_config

pytestmark = pytest.mark.slow

PACKAGE = Path(foundry_config.__file__).parent
ALLOWED = {"msgspec", "foundry_config", *sys.stdlib_module_names}
HEAVY = ("numpy", "torch", "yaml", "transformers", "pydantic", "datasets", "foundry_data", "foundry_model")


def test_importing_the_package_loads_nothing_heavy():
    program = f"import sys, foundry_config; print([m for m in {HEAVY!r} if m in sys.modules])"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_every_module_imports_only_the_standard_library_and_msgspec():
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        late = {"yaml"} if path.name == "yaml_reader.py" else set()  # inside the function that reads YAML
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= ALLOWED | late, path.name


def test_every_exported_name_exists_and_is_listed_in_order():
    assert foundry_config.__all__ == sorted(foundry_config.__all__)
    for name in foundry_config.__all__:
        assert getattr(foundry_config, name) is not None


def test_a_program_that_only_reads_a_config_does_not_wait_for_the_rest():
    program = "import sys, foundry_config; print(sorted(m for m in ('ast', 'logging', 'hashlib') if m in sys.modules))"
    base = "import sys, msgspec; print(sorted(m for m in ('ast', 'logging', 'hashlib') if m in sys.modules))"

    outputs = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
        for text in (program, base)
    ]

    assert outputs[0] == outputs[1]


def test_no_exported_name_is_hidden_by_a_module_of_the_same_name():
    modules = {path.stem for path in PACKAGE.glob("*.py")}

    assert modules.isdisjoint(foundry_config.__all__)


def test_a_name_that_is_not_exported_is_refused_as_usual():
    with pytest.raises(AttributeError, match="has no attribute 'load_confg'"):
        foundry_config.load_confg
