"""Find a named choice: in a table, or anywhere as `"package.module:function"`.

pick("adamv", {"adamw": adamw, "sgd": sgd}, kind="optimizer")
-> ConfigError: unknown optimizer 'adamv'. Did you mean 'adamw'? Known: adamw, sgd
"""

import contextlib
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from foundry_config.errors import ConfigError, FoundryError

Choice = TypeVar("Choice")


def pick(name: str, table: Mapping[str, Choice], *, kind: str) -> Choice | Any:
    """Return the entry of `table` called `name`, or import it if it is written `"module:attribute"`.

    Raises:
        ConfigError: Neither a known name nor something that can be imported.
    """
    if name in table:
        return table[name]
    if ":" in name:
        return import_attribute(name, kind=kind)
    raise ConfigError(f"unknown {kind} {name!r}.{did_you_mean(name, table)} Known: {', '.join(table)}")


def find_modules_in(folder: str | Path) -> None:
    """Let `"module:attribute"` name modules of this project, after those that are installed; of the last one told."""
    place = Path(folder).resolve()
    for earlier in _projects:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(earlier))
    _projects[:] = [*(earlier for earlier in _projects if earlier != place), place]
    sys.path.append(str(place))
    importlib.invalidate_caches()


def module_exists(reference: str) -> bool:
    """Tell whether the package of `"package.module:attribute"` can be found; what is in it is not looked at."""
    name = reference.partition(":")[0]
    try:
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def import_attribute(reference: str, *, kind: str) -> Any:
    """Import `"package.module:attribute"`.

    Raises:
        ConfigError: The module or the attribute does not exist, or the module fails to import.
    """
    module_name, _, attribute = reference.partition(":")
    _forget_another_projects(module_name)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        where = f"; it is not installed, and not in {_projects[-1]}" if missing and _projects else ""
        raise ConfigError(f"{kind} {reference!r}: cannot import module {module_name!r}: {error}{where}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        known = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(
            f"{kind} {reference!r}: module {module_name!r} has no {attribute!r}.{did_you_mean(attribute, known)}"
            f" The module is {getattr(module, '__file__', None) or 'built in'}"
        ) from None


def _forget_another_projects(module: str) -> None:
    """Drop a module of a project that this process dealt with before, so that the current one's is imported."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not _projects:
        return
    earlier = {path for project in _projects[:-1] for path in module_files(module, project)}
    if Path(file).resolve() in earlier.difference(module_files(module, _projects[-1])):
        sys.modules.pop(module)


def module_files(module: str, project: Path) -> tuple[Path, Path]:
    """Where the file of a module of this project would be; what lies deeper, such as its `.venv`, is not its own."""
    place = project.joinpath(*module.split("."))
    return place / "__init__.py", place.with_name(f"{place.name}.py")


_projects: list[Path] = []  # that modules are or were looked for in; the last one counts


@contextlib.contextmanager
def users_code(name: str, *, kind: str, unless: Callable[[BaseException], bool] | None = None) -> Generator[None]:
    """Turn what a user's `"module:function"` raises inside into an error of the config that names it and its line.

    What a known name raises is left alone, and so is a `FoundryError`, which the function has worded itself.

    Args:
        name: As the config has it.
        kind: What the name stands for.
        unless: Says which errors are to pass as they are, such as memory running out.

    Raises:
        ConfigError: The function raised something.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if ":" not in name or isinstance(error, FoundryError) or (unless is not None and unless(error)):
            raise
        place = _place_in_module(error, name.partition(":")[0])
        raise ConfigError(f"{kind} {name!r} raised {type(error).__name__}: {error}{place}") from error


def _place_in_module(error: BaseException, module: str) -> str:
    """Return `" (file.py, line 3)"`, the last line of the module that the error passed through, or an empty string."""
    file = getattr(sys.modules.get(module), "__file__", None)
    place, trace = "", error.__traceback__
    while trace is not None:
        if file is not None and trace.tb_frame.f_code.co_filename == file:
            place = f" ({Path(file).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` with the closest of `known`, or an empty string."""
    meant = closest(name, known)
    return f" Did you mean {meant!r}?" if meant else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that is spelled most like `name`, or None where none is close."""
    choices = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.6)
    return choices[close[0]] if close else None
