r"""Numbers, sizes, times and foreign text as a person reads them.

>>> count(1234567), counted(1, "file"), size(1536 * 1024), duration(3725)
('1,234,567', '1 file', '1.5 MiB', '1 h 02 min')
>>> plain("a\x1b[2Jb")
'a\\x1b[2Jb'
"""

import unicodedata

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SCALES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float) -> str:
    """Group the digits of a whole number: ``12,345``."""
    return f"{number:,.0f}"


def counted(number: int, what: str) -> str:
    """Give a number of things, one or more of them: ``1 checkpoint``, ``1,200 checkpoints``."""
    return f"{count(number)} {what}{'s' if number != 1 else ''}"


def scaled(number: float) -> str:
    """Give three significant digits and a letter: ``124M``, ``3.21G``; small numbers as they are."""
    for factor, letter in _SCALES:
        if abs(number) >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:.3g}"


def operations(number: float) -> str:
    """Give a number of floating-point operations: ``8.75 MFLOP``."""
    text = scaled(number)
    return f"{text[:-1]} {text[-1]}FLOP" if text[-1].isalpha() else f"{text} FLOP"


def size(number_of_bytes: float) -> str:
    """Give a number of bytes in binary units: ``1.5 MiB``."""
    value, units = float(number_of_bytes), iter(_SIZES)
    unit = next(units)
    while abs(value) >= 1024 and (larger := next(units, None)):
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Give a length of time with its two largest units: ``42 s``, ``3 min 05 s``, ``1 h 02 min``, ``2 d 03 h``."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def plain(text: str, *, keep: str = "\n\t") -> str:
    """Spell out control characters, so that a corpus, a file name or a config cannot steer the terminal.

    Besides C0 and C1 controls this covers the characters that reorder a line (bidirectional overrides).
    """
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}
        else _spelled(character)
        for character in text
    )


def one_line(text: str, *, limit: int = 100) -> str:
    """Show the beginning of `text` on one line, line breaks spelled as ``↵``."""
    flat = plain(text.replace("\r\n", "\n").replace("\n", "↵").replace("\t", " "))
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
