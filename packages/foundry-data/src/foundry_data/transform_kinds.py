"""The three kinds of ablation steps, by what they need to see.

    DocumentTransform    one text            -> a text, or None to remove it       parallel
    SequentialFilter     one text            -> a measure                          parallel
                         all measures so far -> keep it or not                     in order
    StreamTransform      all documents       -> all documents                      in order, in one process

A step's fields are its options: msgspec checks their types, and the receipt shows them. To add a step, write a class in
one of the `transform_*.py` files and give it a line in the dict at the end of that file.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import msgspec
from msgspec import Meta

from foundry_data.documents import Document
from foundry_data.fingerprint import code_fingerprint

Edit = Callable[[str], str | None]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]


class StepContext(NamedTuple):
    """What a step may depend on besides its options."""

    seed: int
    """The step's own: derived from the experiment's seed, the step's name and how often that occurred before."""
    base_dir: Path
    """Folder that relative paths, programs and modules are found in."""


class Transform(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all steps; the fields are the options."""

    seedless: ClassVar[bool] = False
    """Set where `context.seed` is never looked at: what such steps make is then made once for all seeds."""
    if_all_removed: ClassVar[str] = "loosen its options"
    """What to do about a step that left no document."""

    def draws(self, _context: StepContext, /) -> bool:
        """Tell whether the result may depend on the seed."""
        return not self.seedless

    def code(self, _context: StepContext, /) -> str:
        """Fingerprint the code that does the work."""
        return code_fingerprint(type(self))


class DocumentTransform(Transform):
    """Changes each document on its own; a step of this kind defines `editor`."""

    if TYPE_CHECKING:

        def editor(self, context: StepContext, /) -> Edit:
            """Return the function that maps a text to the new one, or to None to remove the document."""
            ...


class SequentialFilter(Transform):
    """Removes documents because of earlier ones; a step of this kind defines `measure` and `gate`."""

    if TYPE_CHECKING:

        def measure(self, context: StepContext, /) -> Callable[[str], bytes]:
            """Return a pure function from a text to what the decision needs to know of it."""
            ...

        def gate(self) -> Callable[[bytes], bool]:
            """Return a function that is asked about every measure in order: True keeps the document."""
            ...


class StreamTransform(Transform):
    """Rewrites the whole stream; a step of this kind defines `apply`."""

    if TYPE_CHECKING:

        def apply(self, documents: Iterator[Document], context: StepContext, /) -> Iterable[Document | str]:
            """Return the new documents; a document that keeps its `source` can be compared in the receipt."""
            ...
