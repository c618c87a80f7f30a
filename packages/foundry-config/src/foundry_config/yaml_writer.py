"""Write plain data as YAML that reads back to the same data by the core rules of YAML 1.2.

Sections are blocks, lists and mappings inside a section stand on one line, and text is quoted wherever it could read as
something else, by the rules of YAML 1.1 too: `"off"`, `"2024-01-01"`, `1.0e-05` mean the same to every reader.
"""

import re
from collections.abc import Mapping
from typing import Any

from foundry_config.shapes import is_list, is_mapping
from foundry_config.yaml_reader import resolve

BARE = re.compile(r"[A-Za-z_/][A-Za-z0-9_./~+ -]*(?<! )\Z")
BOOLS_OF_YAML_1_1 = frozenset({"y", "n", "yes", "no", "on", "off"})
SHORT_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def write_yaml(data: Mapping[str, Any]) -> str:
    """Return `data`, a mapping of fields and sections to values, as a YAML document."""
    lines: list[str] = []
    for key, value in data.items():
        if is_mapping(value) and value:
            lines.append(f"{write_text(key)}:")
            lines.extend(f"  {write_text(name)}: {write_value(item)}" for name, item in value.items())
        else:
            lines.append(f"{write_text(key)}: {write_value(value)}")
    return "\n".join(lines) + "\n"


def write_value(value: Any) -> str:
    """Return a value on one line."""
    if is_mapping(value):
        return "{" + ", ".join(f"{write_text(key)}: {write_value(item)}" for key, item in value.items()) + "}"
    if is_list(value):
        return "[" + ", ".join(write_value(item) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")
    return write_text(value) if isinstance(value, str) else repr(value)


def write_text(text: str) -> str:
    """Return text bare where it is safe to, else in double quotes."""
    if BARE.match(text) and isinstance(resolve(text), str) and text.lower() not in BOOLS_OF_YAML_1_1:
        return text
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in SHORT_ESCAPES:
        return SHORT_ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
