"""Who may import whom: read from every import statement of the product, without running any of it.

config <- data, model <- train <- cli        data and model are siblings and never meet
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("foundry_config", "foundry_data", "foundry_model", "foundry_train", "foundry_cli")

FORBIDDEN = {
    "foundry_config": {
        "numpy",
        "torch",
        "transformers",
        "foundry_data",
        "foundry_model",
        "foundry_train",
        "foundry_cli",
    },
    "foundry_data": {"foundry_model", "foundry_train", "foundry_cli", "wandb", "typer", "rich"},
    "foundry_model": {"foundry_data", "foundry_train", "foundry_cli", "wandb", "typer", "rich"},
    "foundry_train": {"foundry_cli", "typer", "rich", "click"},
    "foundry_cli": {"click"},
}
LATE = {  # what may be imported inside functions only, so that importing the package stays light
    "foundry_config": {"yaml"},
    "foundry_data": {"datasets", "pyarrow", "zstandard", "transformers", "torch"},
    "foundry_model": {"transformers.models"},
    "foundry_train": {"wandb", "tensorboard", "huggingface_hub"},
    "foundry_cli": {"torch", "transformers", "foundry_train", "foundry_model", "foundry_data"},
}
EVERYWHERE_IN_DATA = {"foundry_config.errors", "foundry_config.lookup"}


class Import(NamedTuple):
    """One imported module, where it stands, and whether it runs when the file is imported."""

    file: Path
    line: int
    module: str
    at_import: bool

    def is_of(self, name: str) -> bool:
        return self.module == name or self.module.startswith(f"{name}.")

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def sources(package: str) -> list[Path]:
    folder = ROOT / "packages" / package.replace("_", "-") / "src" / package
    return sorted(folder.rglob("*.py"))


def imports(package: str) -> list[Import]:
    found = [item for file in sources(package) for item in imports_of(file)]
    assert found, f"no imports found in {package}: the test looks in the wrong place"
    return found


def imports_of(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    yield from _walk(tree, file, at_import=True)


def _walk(node: ast.AST, file: Path, *, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(file, child.lineno, alias.name, at_import)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{file}:{child.lineno}: imports are absolute"
            yield Import(file, child.lineno, child.module or "", at_import)
        runs = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            runs = False
        yield from _walk(child, file, at_import=runs)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_lies_below_it(package):
    bad = [str(item) for item in imports(package) for name in FORBIDDEN[package] if item.is_of(name)]

    assert bad == []


@pytest.mark.parametrize("package", PACKAGES)
def test_heavy_libraries_are_imported_inside_functions_only(package):
    allowed = {"torch_loader.py"} if package == "foundry_data" else set()
    bad = [
        str(item)
        for item in imports(package)
        for name in LATE[package]
        if item.at_import and item.is_of(name) and item.file.name not in allowed
    ]

    assert bad == []


def test_only_the_torch_loader_of_foundry_data_knows_torch():
    users = {item.file.name for item in imports("foundry_data") if item.is_of("torch")}

    assert users <= {"torch_loader.py"}


def test_only_the_processor_of_foundry_data_knows_the_experiment_config():
    bad = [
        str(item)
        for item in imports("foundry_data")
        if item.is_of("foundry_config") and item.module not in EVERYWHERE_IN_DATA and item.file.name != "processor.py"
    ]

    assert bad == []


def test_no_underscore_module_is_imported_from_another_package():
    bad = [
        str(item)
        for package in PACKAGES
        for item in imports(package)
        if item.module.startswith("foundry_") and "._" in item.module and not item.is_of(package)
    ]

    assert bad == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_pickle_is_read_or_written_anywhere(package):
    bad = [str(item) for item in imports(package) if item.module in {"pickle", "cPickle", "dill", "joblib", "shelve"}]
    calls = {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "pickle.load", "pickle.dump"}
    for file in sources(package):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in calls:
                loader_is_ours = ast.unparse(node.func) == "yaml.load" and len(node.args) + len(node.keywords) > 1
                if not loader_is_ours:
                    bad.append(f"{file.relative_to(ROOT)}:{node.lineno} calls {ast.unparse(node.func)}")

    assert bad == []


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_evaluated_unpacked_or_trusted_that_comes_from_outside(package):
    """No code out of data, no archive taken apart, no file of numbers that may hold objects, no code of a model hub."""
    unpacking = {"tarfile", "zipfile", "marshal"}
    bad = [str(item) for item in imports(package) if item.module.partition(".")[0] in unpacking]
    for file in sources(package):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (reason := dangerous(node)):
                bad.append(f"{file.relative_to(ROOT)}:{node.lineno} {reason}")

    assert bad == []


def dangerous(call: ast.Call) -> str:
    """Say what in a call could run code that somebody else wrote; nothing if there is none."""
    name = ast.unparse(call.func)
    if name in {"eval", "exec", "compile", "os.system", "os.popen", "shutil.unpack_archive"}:
        return f"calls {name}"
    for keyword in call.keywords:
        forbidden = keyword.arg in {"allow_pickle", "trust_remote_code", "shell"}
        if forbidden and ast.unparse(keyword.value) != "False":
            return f"passes {keyword.arg}={ast.unparse(keyword.value)}"
    return ""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("eval('1')", "calls eval"),
        ("shutil.unpack_archive(path)", "calls shutil.unpack_archive"),
        ("np.load(path, allow_pickle=True)", "passes allow_pickle=True"),
        ("load(path, trust_remote_code=wanted)", "passes trust_remote_code=wanted"),
        ("load(path, trust_remote_code=False)", ""),
        ("model.eval()", ""),
        ("re.compile('x')", ""),
    ],
)
def test_dangerous_calls_are_recognised(code, reason):
    assert dangerous(ast.parse(code).body[0].value) == reason


@pytest.mark.parametrize("package", PACKAGES)
def test_the_top_level_of_a_package_only_re_exports_at_once_or_when_asked(package):
    tree = ast.parse(sources(package)[0].with_name("__init__.py").read_text(encoding="utf-8"))

    kinds = {type(node) for node in tree.body[1:]}

    assert ast.get_docstring(tree)
    assert kinds <= {ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.If}
    assert any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in tree.body)
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert defined <= {"__getattr__", "__dir__"}  # names that are loaded when they are asked for (PEP 562)
