"""The measure of a corpus in words: what stands between whitespace, as in the BabyLM budgets.

    >>> count_words("  It's\\tone-two,\\n three ")
    3

Every count of words in this package (reports, receipts, the token store) is this one.
"""


def count_words(text: str) -> int:
    """Return the number of maximal runs of characters that are not Unicode whitespace."""
    return len(text.split())
