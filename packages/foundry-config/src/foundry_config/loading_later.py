"""Public names of a package that are imported when somebody first asks for them.

    __getattr__, __dir__ = later(__name__, {"trainer": ("Trainer",), "devices": ("get_device",)})

So a program that reads a config does not wait for what trains a model.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def later(package: str, homes: Mapping[str, Iterable[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the functions `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: Its name.
        homes: Modules of the package, and the public names that each of them holds.

    Returns:
        `__getattr__`, which imports a name from its module and remembers it, and `__dir__`, which lists them all.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return get, names
