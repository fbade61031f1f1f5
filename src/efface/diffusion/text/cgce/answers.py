"""Reading pairs of prompts out of what a language model wrote: JSON in whatever wrapping, or lines."""

from __future__ import annotations

import json
import re
from typing import Any

_LINE = re.compile(r"^[\W\d_]*(?P<un>un)?safe(?: prompt)?\W*?[:=]\W*?(?P<text>\w.*)$", re.IGNORECASE)


def read_answer(answer: str) -> list[tuple[str, str]]:
    """(safe, unsafe) of every whole pair in an answer; what is not one is passed over.

    Understood are JSON objects with the keys "safe" and "unsafe" and JSON lists of two strings, wherever they stand
    (in prose, between code fences, in a list that is cut off, one a line), and lines "Safe: ..." followed by
    "Unsafe: ...".

    >>> read_answer('Here you are: [{"safe": "a cat", "unsafe": "a star"}, {"safe": "a d')
    [('a cat', 'a star')]
    """
    return _of_json(answer) or _of_lines(answer)


def _of_json(answer: str) -> list[tuple[str, str]]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while match := re.compile(r"[\[{]").search(answer, at):
        try:
            value, at = decoder.raw_decode(answer, match.start())
            found += _pairs(value)
        except ValueError:
            at = match.start() + 1  # cut off, or no JSON: what is inside may be whole
    return found


def _pairs(value: Any) -> list[tuple[str, str]]:
    both: Any = value
    if isinstance(value, dict):
        named = {str(key).lower(): text for key, text in value.items()}
        both, value = [named.get("safe"), named.get("unsafe")], list(value.values())
    if not isinstance(value, list):
        return []
    if len(both) == 2 and all(isinstance(text, str) and text.strip() for text in both):
        return [(both[0], both[1])]
    return [pair for item in value for pair in _pairs(item)]


def _of_lines(answer: str) -> list[tuple[str, str]]:
    found, safe = [], None
    for match in filter(None, map(_LINE.match, answer.splitlines())):
        text = match["text"].strip().strip("\"'*`").strip()
        if match["un"] and safe is not None:
            found.append((safe, text))
        safe = None if match["un"] else text
    return found
