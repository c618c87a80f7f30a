"""Strings made to break tokenizers: the same on every machine, for self-checks and tests.

    unusual_strings(3)   -> ['  a', 'e\u0301\u200d ', ...]

Each mixes a few characters of one or two of the families below, so that every family meets every other one.
"""

import random

FAMILIES: tuple[str, ...] = (
    " " * 8 + "\u2581",  # spaces, and what SentencePiece makes of them
    "\t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000",  # other whitespace
    "\x00\x01\x07\x08\x1b\x7f\x80\x9f",  # control characters
    "\u0300\u0301\u0308\u0327\u0338\u064b\u0e34\u20d0",  # combining marks
    "\u200b\u200c\u200d\u2060\ufeff\xad\u200e\u202e",  # invisible
    "abcdefghijklmnopqrstuvwxyzABCXYZ",
    "0123456789٣४５²½Ⅷ",
    ".,;:!?'\"()[]{}<>/\\|@#$%^&*-_=+`~",
    "äöüßéèñçøåÆŒĳŠ",
    "ﬁﬂ①㌀ＡＢＣｱｲ…™ℌ",  # what compatibility normalization changes
    "абвгЁΩλשלويไทยक्षहिن",
    "日本語漢字かなカナ한국어中文",
    "😀🏳️‍🌈👩‍👩‍👧🇩🇪𝔘𐍈",
    "\ue000\uf8ff\ufdd0\ufffd\U0010fffd\U000e0041",  # private use, not characters, the last planes
    "\u2047\u2585\u2584<>s/unkpad0xA",  # marks of SentencePiece itself, and pieces of `<s>` and `<0x0A>`
)


def unusual_strings(count: int, *, seed: int = 0) -> list[str]:
    """Return `count` short strings, without lone surrogates; the same for the same seed."""
    generator = random.Random(seed)
    strings: list[str] = []
    for _ in range(count):
        alphabet = "".join(generator.choice(FAMILIES) for _ in range(generator.randint(1, 3)))
        strings.append("".join(generator.choice(alphabet) for _ in range(generator.randint(1, 24))))
    return strings
