"""Take documents through consecutive steps in one go, and tell what became of each: the part that runs in workers.

    lowercase, deduplicate, regex_drop          "Abc" -> ("abc", 1 word), measure, kept
                                                "xyz" -> unchanged,       measure, removed

Only what changed travels back. A measure stands where the caller decides in order (`SequentialFilter`); the steps after
it are done as if the document stays.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from foundry_config.errors import DataError
from foundry_data.documents import Document, is_unicode
from foundry_data.transform_kinds import DocumentTransform, SequentialFilter
from foundry_data.transforms import Step
from foundry_data.words import count_words


class Change(NamedTuple):
    """A new text."""

    text: str
    words: int


Outcome = None | bool | bytes | Change
"""Removed; unchanged (always True); a measure; changed."""


class Trail(msgspec.Struct, array_like=True):
    """What became of one document, step by step; it ends with the step that removed it."""

    words: int
    outcomes: list[Outcome]


class ChainResult(msgspec.Struct, array_like=True):
    """What became of some documents."""

    trails: list[Trail]
    seconds: list[float]
    """Time spent in each step."""


class DocumentChain:
    """Consecutive steps that look at one document at a time."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = list(steps)
        self._functions = [_function(step) for step in self.steps]

    def __call__(self, documents: list[Document]) -> ChainResult:
        """Apply the steps.

        Raises:
            DataError: A step failed; names it and the document.
        """
        seconds = [0.0] * len(self.steps)
        trails = [Trail(count_words(document.text), list(self._follow(document, seconds))) for document in documents]
        return ChainResult(trails, seconds)

    def _follow(self, document: Document, seconds: list[float]) -> Iterator[Outcome]:
        text = document.text
        for index, step in enumerate(self.steps):
            started = time.perf_counter()
            result = self._call(index, text, document.source)
            seconds[index] += time.perf_counter() - started
            if isinstance(step.transform, SequentialFilter):
                yield result
            elif not result or result.isspace():
                yield None
                return
            elif result == text:
                yield True
            else:
                text = result
                yield Change(text, count_words(text))

    def _call(self, index: int, text: str, source: str) -> Any:
        """Return the new text, None, or a measure."""
        step = self.steps[index]
        try:
            result = self._functions[index](text)
        except DataError as error:
            raise DataError(f"{step.label} failed on {source}: {error}") from error
        except (Exception, SystemExit) as error:  # a user's function may raise anything
            raise DataError(f"{step.label} failed on {source}: {type(error).__name__}: {error}") from error
        if isinstance(step.transform, DocumentTransform):
            check_text(result, step, source)
        return result


def check_text(text: object, step: Step, source: str) -> None:
    """Refuse what a step may not give back.

    Raises:
        DataError: `text` is neither None nor a string that UTF-8 can say.
    """
    if text is not None and not isinstance(text, str):
        raise DataError(
            f"{step.label} gave {type(text).__name__} for {source}; it must give a text, or None to remove it"
        )
    if text is not None and not is_unicode(text):
        raise DataError(f"{step.label} gave half of a surrogate pair for {source}, which is not Unicode text")


def _function(step: Step) -> Callable[[str], Any]:
    transform = step.transform
    if isinstance(transform, SequentialFilter):
        return transform.measure(step.context)
    assert isinstance(transform, DocumentTransform)
    return transform.editor(step.context)
