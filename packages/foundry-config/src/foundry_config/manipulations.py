"""The ways to write one value of `dataset_manipulation` in a matrix, where each value is a condition of a study.

none                                  the corpus as it is, as `[]` and `null` are
lowercase                             one step by its name
{name: drop_words, words: [the]}      one step with its options
[lowercase, {name: ...}]              several
{no-articles: [{name: ...}]}          several, under a name for the condition
"""

from typing import Any, NamedTuple

from foundry_config.shapes import is_list, is_mapping


class NamedSteps(NamedTuple):
    """The steps of a condition, as the field takes them, and its name if it was given one."""

    name: str | None
    steps: list[Any]


def named_steps(raw: Any) -> NamedSteps:
    """Read one value; what is no step at all is left to the rules of the field.

    >>> named_steps("none"), named_steps({"no-articles": ["lowercase"]})
    (NamedSteps(name=None, steps=[]), NamedSteps(name='no-articles', steps=['lowercase']))
    """
    if raw is None or raw == "none":
        return NamedSteps(None, [])
    if is_list(raw):
        return NamedSteps(None, list(raw))
    if is_mapping(raw) and len(raw) == 1:
        [(name, steps)] = raw.items()
        if is_list(steps) and name != "command":
            return NamedSteps(name, list(steps))
    return NamedSteps(None, [raw])
