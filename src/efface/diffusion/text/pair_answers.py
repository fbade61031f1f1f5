"""Reading pairs of prompts out of what a language model wrote: JSON in whatever wrapping, or lines."""

from __future__ import annotations

import json
import re
from typing import Any

_SAFE = re.compile(r"^[\W\d_]*safe(?: prompt)?\W*?[:=]\W*?(?P<text>\w.*)$", re.IGNORECASE)
_UNSAFE = re.compile(r"^[\W\d_]*unsafe(?: prompt)?\W*?[:=]\W*?(?P<text>\w.*)$", re.IGNORECASE)


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
        at = match.start()
        try:
            value, end = decoder.raw_decode(answer, at)
        except ValueError:
            at += 1  # cut off, or no JSON: what is inside may be whole
            continue
        found += _pairs(value)
        at = end
    return found


def _pairs(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        named = {str(key).lower(): text for key, text in value.items()}
        both = (named.get("safe"), named.get("unsafe"))
        inside = [pair for item in value.values() for pair in _pairs(item)]
        return [both] if _whole(both) else inside  # type: ignore[list-item]
    if isinstance(value, list):
        return [(value[0], value[1])] if _whole(value) else [pair for item in value for pair in _pairs(item)]
    return []


def _whole(value: Any) -> bool:
    return len(value) == 2 and all(isinstance(text, str) and text.strip() for text in value)


def _of_lines(answer: str) -> list[tuple[str, str]]:
    found, safe = [], None
    for line in answer.splitlines():
        if match := _UNSAFE.match(line):
            if safe is not None:
                found.append((safe, _clean(match["text"])))
            safe = None
        elif match := _SAFE.match(line):
            safe = _clean(match["text"])
    return found


def _clean(text: str) -> str:
    return text.strip().strip("\"'*`").strip()
