"""Text that comes from data, and is shown."""

from __future__ import annotations

import re

_STEERING = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")


def visible(text: str) -> str:
    r"""Text in which signs that steer a terminal, or turn its direction, are written out; line ends stay.

    >>> visible("red" + chr(27) + "[2J")
    'red\\x1b[2J'
    """
    return _STEERING.sub(_written, text)


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
