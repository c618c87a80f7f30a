"""A step that is a Python function of yours, named as `"module:function"`.

    my_steps:swap                          documents in, documents out:  swap(documents) -> documents or texts
    {name: my_steps:swap, rate: 0.5}       options are keyword arguments: swap(documents, rate=0.5)
    {name: my_steps:mark, per: document}   one text in, text or None out: mark(text), in parallel

A function that has a parameter `seed` receives one: of the step, or with `per: document` of the step and the text, so
that chance does not depend on the order of the work. The module is looked for in the project's root too.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from foundry_config.errors import ConfigError
from foundry_config.lookup import did_you_mean
from foundry_data.documents import Document
from foundry_data.fingerprint import fingerprint
from foundry_data.fs import sha256_file
from foundry_data.keyed_random import keyed_hash
from foundry_data.project_code import load_function, named_files, project_fingerprint
from foundry_data.transform_kinds import DocumentTransform, Edit, StepContext, StreamTransform

Function = Callable[..., Any]


class FunctionOnDocument(DocumentTransform):
    """Call a function on each text."""

    if_all_removed: ClassVar[str] = "it must return the text of every document that stays"

    reference: str
    options: dict[str, Any]

    def editor(self, context: StepContext, /) -> Edit:
        """Return the function with its options filled in."""
        function = find_function(self.reference, self.options, context.base_dir)
        if not _wants_seed(function, self.options):
            return lambda text: function(text, **self.options)
        return lambda text: function(text, seed=keyed_hash(context.seed, "function", text), **self.options)

    def draws(self, context: StepContext, /) -> bool:
        """Tell whether the function takes a seed."""
        return _wants_seed(find_function(self.reference, self.options, context.base_dir), self.options)

    def code(self, context: StepContext, /) -> str:
        """Fingerprint the module of the function, what it imports from the project, and files that options name."""
        return fingerprint(["per document", _code(self.reference, self.options, context.base_dir)])


class FunctionOnStream(StreamTransform):
    """Call a function on all documents."""

    if_all_removed: ClassVar[str] = (
        "it must `yield` the documents that stay, or `return` a list of them; a function that takes one text at a time "
        "needs `per: document`"
    )

    reference: str
    options: dict[str, Any]

    def apply(self, documents: Iterator[Document], context: StepContext, /) -> Iterable[Document | str]:
        """Return what the function makes of the documents."""
        function = find_function(self.reference, self.options, context.base_dir)
        seed = {"seed": context.seed} if _wants_seed(function, self.options) else {}
        return function(documents, **seed, **self.options)

    def draws(self, context: StepContext, /) -> bool:
        """Tell whether the function takes a seed."""
        return _wants_seed(find_function(self.reference, self.options, context.base_dir), self.options)

    def code(self, context: StepContext, /) -> str:
        """Fingerprint the module of the function, what it imports from the project, and files that options name."""
        return _code(self.reference, self.options, context.base_dir)


def find_function(reference: str, options: dict[str, Any], base_dir: Path, *, arguments: int = 1) -> Function:
    """Import the function and check that it takes so many arguments, and the options.

    Raises:
        ConfigError: No such module or function, not a function, or an option that it does not know.
    """
    function = load_function(reference, base_dir, kind="step")
    if not callable(function):
        raise ConfigError(f"{reference!r} is not a function but {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C tell nothing
        return function
    try:
        signature.bind(*[None] * arguments, **({"seed": 0} if "seed" in signature.parameters else {}) | options)
    except TypeError as error:
        known = list(signature.parameters)[arguments:]
        hint = "".join(did_you_mean(name, known) for name in options if name not in known)
        raise ConfigError(f"{reference!r} cannot be called with these options: {error}.{hint}") from None
    return function


def _code(reference: str, options: dict[str, Any], base_dir: Path) -> str:
    code = project_fingerprint(reference, base_dir)
    files = named_files(options.values(), base_dir)
    return fingerprint([code, *map(sha256_file, files)]) if files else code


def _wants_seed(function: Function, options: dict[str, Any]) -> bool:
    try:
        return "seed" in inspect.signature(function).parameters and "seed" not in options
    except ValueError:
        return False
