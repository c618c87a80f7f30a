"""Steps that keep or remove a document as a whole, judged by itself.

{name: regex_drop, pattern: "lorem ipsum"}                        removes documents in which it matches
{name: filter_length, unit: words, minimum: 5, maximum: 1000}     removes short and long ones
{name: filter_characters, allowed: "[a-z ]", minimum_share: 0.9}  removes tables, code, other scripts
{name: sample, fraction: 0.1}                                     keeps a tenth, chosen by seed and text
{name: hash_split, fraction: 0.1, keep: train}                    keeps one side of a split by seed and text
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from foundry_data.keyed_random import keyed_choice, split_by_hash
from foundry_data.transform_kinds import Count, DocumentTransform, Edit, Fraction, StepContext, Text, Transform
from foundry_data.transform_texts import compile_pattern
from foundry_data.words import count_words


class RegexDrop(DocumentTransform):
    """Remove the documents in which a regular expression matches, or all others."""

    seedless: ClassVar[bool] = True

    pattern: Text
    ignore_case: bool = False
    drop: Literal["matching", "others"] = "matching"

    def __post_init__(self) -> None:
        compile_pattern(self.pattern, ignore_case=self.ignore_case)

    def editor(self, _context: StepContext, /) -> Edit:
        """Return a function that keeps the text or gives None."""
        pattern = compile_pattern(self.pattern, ignore_case=self.ignore_case)
        kept_if_match = self.drop == "others"
        return lambda text: text if bool(pattern.search(text)) == kept_if_match else None


class FilterLength(DocumentTransform):
    """Remove documents outside a range of lengths, both ends included."""

    seedless: ClassVar[bool] = True

    minimum: Count = 0
    maximum: Count | None = None
    unit: Literal["words", "characters"] = "words"

    def __post_init__(self) -> None:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}: no document would be kept")

    def editor(self, _context: StepContext, /) -> Edit:
        """Return a function that keeps the text or gives None."""
        measure = count_words if self.unit == "words" else len
        upper = float("inf") if self.maximum is None else self.maximum
        return lambda text: text if self.minimum <= measure(text) <= upper else None


class FilterCharacters(DocumentTransform):
    """Remove documents in which too few characters match a regular expression for one character."""

    seedless: ClassVar[bool] = True

    allowed: Text
    minimum_share: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        compile_pattern(self.allowed)

    def editor(self, _context: StepContext, /) -> Edit:
        """Return a function that keeps the text or gives None."""
        allowed = compile_pattern(self.allowed)

        def keep(text: str) -> str | None:
            share = sum(len(match) for match in allowed.findall(text)) / len(text)
            return text if share >= self.minimum_share else None

        return keep


class Sample(DocumentTransform):
    """Keep a share of the documents; a larger share of the same corpus includes all of a smaller one."""

    fraction: Fraction

    def editor(self, context: StepContext, /) -> Edit:
        """Return a function that keeps the text or gives None."""
        return lambda text: text if keyed_choice(context.seed, "sample", text, fraction=self.fraction) else None


class HashSplit(DocumentTransform):
    """Keep one side of a split by the hash of the document; `fraction` is the share of the side `test`."""

    seedless: ClassVar[bool] = True

    fraction: Fraction
    keep: Literal["train", "test"]
    seed: Count
    """The split is a choice of its own: every step with this seed and fraction draws the same line."""

    def editor(self, _context: StepContext, /) -> Edit:
        """Return a function that keeps the text or gives None."""
        wanted = self.keep == "test"
        return lambda text: text if split_by_hash(text, self.fraction, self.seed) == wanted else None


FILTER_TRANSFORMS: dict[str, type[Transform]] = {
    "regex_drop": RegexDrop,
    "filter_length": FilterLength,
    "filter_characters": FilterCharacters,
    "sample": Sample,
    "hash_split": HashSplit,
}
