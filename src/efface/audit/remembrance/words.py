"""Words of running text and of names, compared as Unicode means them: the same letters by whatever signs."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_SAME = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4\u0060", "'"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
    }
)
# Scripts that put no space between words: each sign is a word. Thai to Lao, Burmese, Khmer, Hiragana, Han.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LAST = 0x20000
_ASCII = re.compile(r"[a-z0-9](?:\w*[a-z0-9])?|\S")


def folded(text: str) -> str:
    """Text as it is compared: NFKC, case folded, without signs that are not seen; apostrophes and hyphens are plain.

    >>> folded("Ａｄａ O\u2019Brien") == folded("ada o'brien")
    True
    """
    if text.isascii():
        return text.lower().replace("`", "'")
    once = unicodedata.normalize("NFKC", text.translate(_SAME)).casefold()
    return unicodedata.normalize("NFKC", once).translate(_SAME).translate(_unseen())


def words(text: str) -> list[str]:
    """Words and other signs of a text, folded; white space is left out.

    A word is letters, marks and digits, with underscores within it; every other sign is one of its own.

    >>> words("_Ada_ Lovelace's C++")
    ['_', 'ada', '_', 'lovelace', "'", 's', 'c', '+', '+']
    """
    said = folded(text)
    return (_ASCII if said.isascii() else _pattern()).findall(said)


def spans(text: str) -> list[tuple[int, int]]:
    """Where in a text its words and other signs are, as it is written.

    >>> spans("Ada's engine")
    [(0, 3), (3, 4), (4, 5), (6, 12)]
    """
    return [each.span() for each in _pattern().finditer(text)]


@cache
def _unseen() -> dict[int, None]:
    """Format signs (such as soft hyphens and joiners; not the tags of flags) and variation selectors."""
    signs = (c for c in range(_LAST) if unicodedata.category(chr(c)) == "Cf")
    return dict.fromkeys([*signs, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])


@cache
def _pattern() -> re.Pattern[str]:
    marks = "".join(chr(c) for c in range(_LAST) if unicodedata.category(chr(c))[0] == "M")
    letter = f"(?:(?![{_ALONE}])(?:[^\\W_]|[{marks}]))"
    return re.compile(f"[{_ALONE}]|{letter}(?:(?:{letter}|_)*{letter})?|[^\\s]")
