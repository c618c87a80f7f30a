"""Functions of the user's project: imported as they stand on disk now, and named by all the code they are made of.

    my_steps.py      import verbs             load_function("my_steps:swap", folder)
    verbs.py         LIST = ["go", "see"]     project_fingerprint("my_steps:swap", folder)    follows both files

Python keeps a module once it is imported. A notebook, or two projects in one process, would otherwise run code that is
no longer there under the fingerprint of the code that is; so modules that changed, or are another project's, are
imported again. Files that an option names count as well. What a module opens by a name of its own, or imports by a
computed one, is not followed.
"""

import ast
import contextlib
import importlib
import sys
import sysconfig
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from foundry_config.lookup import import_attribute, module_files
from foundry_data.fingerprint import code_fingerprint, fingerprint
from foundry_data.fs import sha256_file

_loaded: dict[str, tuple[Path, str]] = {}  # file and SHA-256 of each project module as it was imported


def load_function(reference: str, folder: Path, *, kind: str) -> Any:
    """Import `"module:function"`, looking in `folder` first.

    Raises:
        ConfigError: The module or the function does not exist, or the module fails to import.
    """
    module = reference.partition(":")[0]
    _forget_stale(module, folder)
    with _importable_from(folder):
        function = import_attribute(reference, kind=kind)
    for name, path in project_files(module).items():
        _loaded.setdefault(name, (path, sha256_file(path)))
    return function


def project_fingerprint(reference: str, folder: Path) -> str:
    """Fingerprint a function by its module and every module of the same project that this one imports.

    Raises:
        ConfigError: As `load_function`.
    """
    function = load_function(reference, folder, kind="step")
    files = project_files(reference.partition(":")[0])
    return fingerprint([code_fingerprint(function), *([name, sha256_file(files[name])] for name in sorted(files))])


def project_files(module: str) -> dict[str, Path]:
    """Return the files of an imported module and of what it imports from where it lies, by their dotted names.

    Of an installed package only its own modules count, not the other packages beside it.
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not file.endswith(".py"):
        return {}
    path = Path(file)
    root = path.parents[module.count(".") + (path.name == "__init__.py")]
    return _reachable([module], root, inside=f"{module.partition('.')[0]}." if _is_shared(root) else "")


def script_files(script: Path) -> dict[str, Path]:
    """Return the modules beside a Python script that it imports, and what those import from there, by dotted names."""
    return _reachable(_imported_names(script, script.stem), script.parent, inside="")


def named_files(options: Iterable[Any], folder: Path) -> list[Path]:
    """Return the files that a step is told of: options and arguments that name one, also after a `=`."""
    texts = [text for option in options if isinstance(option, str) for text in (option, option.partition("=")[2])]
    return [path for text in texts if text and "\0" not in text and (path := folder / text).is_file()]


def _reachable(names: Iterable[str], root: Path, *, inside: str) -> dict[str, Path]:
    """Follow imports from `names` on, to files below `root` whose dotted names begin with `inside`."""
    found: dict[str, Path] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        path = _file_of(name, root)
        if path is not None and name not in found and f"{name}.".startswith(inside):
            found[name] = path
            waiting += _imported_names(path, name)
    return found


def _is_shared(root: Path) -> bool:
    """Whether unrelated packages lie in `root`."""
    return root.name in ("site-packages", "dist-packages") or root == Path(sysconfig.get_path("stdlib"))


def _file_of(name: str, root: Path) -> Path | None:
    return next((path for path in module_files(name, root) if path.is_file()), None)


def _imported_names(path: Path, name: str) -> list[str]:
    """Return every name that the source may import: modules, their packages, and what is taken out of them."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []  # it was edited after it was imported; its own digest tells
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: list[str] = [package] if package else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [".".join(full.split(".")[: end + 1]) for full in names if full for end in range(full.count(".") + 1)]


def _forget_stale(module: str, folder: Path) -> None:
    """Drop imported project modules if one changed on disk, or if `module` is not the one that `folder` has."""
    wanted = _file_of(module, folder)
    loaded = getattr(sys.modules.get(module), "__file__", None)
    elsewhere = wanted is not None and loaded is not None and Path(loaded).resolve() != wanted.resolve()
    if elsewhere:
        sys.modules.pop(module)
    if elsewhere or any(not path.is_file() or sha256_file(path) != digest for path, digest in _loaded.values()):
        for name in _loaded:
            sys.modules.pop(name, None)
        _loaded.clear()


@contextlib.contextmanager
def _importable_from(folder: Path) -> Generator[None]:
    """Let modules of the project be imported, as if Python had been started in its root."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    # A cached .pyc of the same second and size counts as current; none is left behind for the next import to find.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        sys.path.remove(str(folder))
