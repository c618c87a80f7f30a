"""Times as people write them: `90s`, `3h50m`, `1.5d`."""

import re

from foundry_config.errors import ConfigError

UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+", re.ASCII)
PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds that `text` stands for.

    Raises:
        ConfigError: It is no sequence of numbers with the units s, m, h, d.

    >>> parse_duration("3h50m")
    13800.0
    """
    if not DURATION.fullmatch(text):
        raise ConfigError(f"{text!r} is no duration; write numbers with units, such as 90s, 3h50m or 1.5d")
    return sum(float(number) * UNIT_SECONDS[unit] for number, unit in PART.findall(text))
