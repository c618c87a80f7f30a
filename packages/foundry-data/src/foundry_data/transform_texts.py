"""Steps that rewrite a document: replace, lower-case, remove words or sentences, shuffle words.

    {name: regex_replace, pattern: "[0-9]+", replacement: "0"}     "in 1969"        -> "in 0"
    lowercase                                                      "In Paris"       -> "in paris"
    {name: drop_words, words: [the, a]}                            "the cat saw a." -> "cat saw ."
    {name: drop_sentences, pattern: "who", ignore_case: true}      "I am. Who? No." -> "I am. No."
    {name: shuffle_words, window: 3}                               "a b c d e f"    -> "c a b d f e"

White space that separates what remains is kept. A document left without text is removed.
"""

import itertools
import re
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from foundry_data.keyed_random import keyed_random
from foundry_data.transform_kinds import DocumentTransform, Edit, StepContext, Text, Transform

# Where a sentence ends: . ! ? and closing quotes or brackets before white space; or a line break. It knows nothing of
# abbreviations. Each alternative begins with a character that cannot continue it, so that matching takes linear time.
SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s+|\n\s*""")
WORD = re.compile(r"\S+")


class RegexReplace(DocumentTransform):
    """Replace every match of a regular expression; the replacement may name groups, as in `re.sub`."""

    seedless: ClassVar[bool] = True

    pattern: Text
    replacement: str = ""
    ignore_case: bool = False

    def __post_init__(self) -> None:
        pattern = compile_pattern(self.pattern, ignore_case=self.ignore_case)
        try:
            pattern.sub(self.replacement, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"replacement {self.replacement!r} does not fit the pattern: {error}") from None

    def editor(self, _context: StepContext, /) -> Edit:
        """Return a function that substitutes all matches."""
        pattern, replacement = compile_pattern(self.pattern, ignore_case=self.ignore_case), self.replacement
        return lambda text: pattern.sub(replacement, text)


class Lowercase(DocumentTransform):
    """Make every letter a small one."""

    seedless: ClassVar[bool] = True

    def editor(self, _context: StepContext, /) -> Edit:
        """Return `str.lower`."""
        return str.lower


class DropWords(DocumentTransform):
    """Remove whole words, each with the spaces after it."""

    seedless: ClassVar[bool] = True

    words: Annotated[tuple[Text, ...], Meta(min_length=1)]
    ignore_case: bool = True

    def editor(self, _context: StepContext, /) -> Edit:
        """Return a function that removes the words wherever no letter or digit touches them."""
        alternatives = "|".join(
            re.escape(word) for word in sorted(set(self.words), key=lambda word: (-len(word), word))
        )
        pattern = compile_pattern(rf"(?<!\w)(?:{alternatives})(?!\w)[ \t]*", ignore_case=self.ignore_case)
        return lambda text: pattern.sub("", text)


class DropSentences(DocumentTransform):
    """Remove the sentences in which a regular expression matches, or all others."""

    seedless: ClassVar[bool] = True

    pattern: Text
    ignore_case: bool = False
    drop: Literal["matching", "others"] = "matching"

    def __post_init__(self) -> None:
        compile_pattern(self.pattern, ignore_case=self.ignore_case)

    def editor(self, _context: StepContext, /) -> Edit:
        """Return a function that joins the sentences that stay."""
        pattern = compile_pattern(self.pattern, ignore_case=self.ignore_case)
        kept_if_match = self.drop == "others"

        def drop(text: str) -> str:
            sentences = split_sentences(text)
            return "".join(sentence for sentence in sentences if bool(pattern.search(sentence)) == kept_if_match)

        return drop


class ShuffleWords(DocumentTransform):
    """Shuffle the words within consecutive windows, leaving the white space where it is: no word moves further."""

    window: Annotated[int, Meta(ge=2)]

    def editor(self, context: StepContext, /) -> Edit:
        """Return a function whose randomness is keyed by the seed and the text."""

        def shuffle(text: str) -> str:
            random = keyed_random(context.seed, "shuffle", text)
            words = WORD.findall(text)
            shuffled: list[str] = []
            for start in range(0, len(words), self.window):
                window = words[start : start + self.window]
                random.shuffle(window)
                shuffled += window
            following = iter(shuffled)
            return WORD.sub(lambda _: next(following), text)

        return shuffle


def split_sentences(text: str) -> list[str]:
    """Cut a text after each sentence; the pieces joined are the text again.

    >>> split_sentences('He said "No!" Then he left. The end')
    ['He said "No!" ', 'Then he left. ', 'The end']
    """
    borders = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(borders) if start < stop]


def compile_pattern(pattern: str, *, ignore_case: bool = False) -> re.Pattern[str]:
    """Compile a regular expression whose `^` and `$` match at line breaks.

    Raises:
        ValueError: The expression is malformed.
    """
    try:
        return re.compile(pattern, re.MULTILINE | (re.IGNORECASE if ignore_case else 0))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


TEXT_TRANSFORMS: dict[str, type[Transform]] = {
    "regex_replace": RegexReplace,
    "lowercase": Lowercase,
    "drop_words": DropWords,
    "drop_sentences": DropSentences,
    "shuffle_words": ShuffleWords,
}
