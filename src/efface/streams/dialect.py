"""How a `.csv` file is written: its encoding, what stands between columns, and its decimal mark."""

from __future__ import annotations

import codecs
import csv
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from efface._errors import EffaceWarning, FormatError

_READ, _RECORDS = 1 << 18, 200
_SEPARATORS = ",;\t|"
_MARKS = (  # The mark of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d+,(\d+)([eE][+-]?\d+)?")
_GROUP = 3


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes:
        encoding: `"utf-8"`, or `"utf-16"` or `"utf-32"` with a byte order mark.
        separator: What stands between columns.
        decimal: What stands before the decimals of a number.
        skip: Lines before the header: comments, or the line in which spreadsheets say the separator.
    """

    encoding: str = "utf-8"
    separator: str = ","
    decimal: str = "."
    skip: int = 0


def find_dialect(path: Path) -> Dialect:
    """The dialect of a file, from its first lines; warns where numbers are taken to have decimal commas.

    Raises:
        FormatError: If it is no text in an encoding that is known here.
    """
    with path.open("rb") as file:
        raw = file.read(_READ)
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    lines = _decoded(raw, encoding, path).splitlines()
    if len(raw) == _READ:
        lines = lines[:-1]  # It may be cut.
    told = re.fullmatch(r'"?sep=(.)"?', lines[0]) if lines else None
    skip = 1 if told else _comments(lines)
    separator = told[1] if told else _separator(lines[skip:])
    decimal = "." if separator == "," else _decimal(_records(lines[skip:], separator))
    if decimal == ",":
        warnings.warn(f"{path} is read with decimal commas, 0,5 for one half", EffaceWarning, stacklevel=4)
    return Dialect(encoding, separator, decimal, skip)


def _decoded(raw: bytes, encoding: str, path: Path) -> str:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(raw).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        near = raw[max(0, error.start - 10) : error.start + 10]
        raise FormatError(
            f"{path} is not {encoding.upper()} text (near {near!r}): save it as UTF-8, e.g. with "
            f"iconv -f latin1 -t utf-8"
        ) from error
    if "\0" in text:
        raise FormatError(f"{path} is no UTF-8 text, or has zero bytes in it: save it as UTF-8")
    return text


def _comments(lines: Sequence[str]) -> int:
    """How many lines at the top are comments: a header may begin like one, but is as wide as the next line."""
    count = 0
    while len(lines) > count + 1 and lines[count].startswith("#") and _width(lines[count]) != _width(lines[count + 1]):
        count += 1
    return count


def _width(line: str) -> int:
    return max(line.count(mark) for mark in _SEPARATORS)


def _records(lines: Sequence[str], separator: str) -> list[list[str]]:
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator)
    try:
        return [record for record in islice(reader, _RECORDS) if record]
    except csv.Error:  # A quote that is not closed, or a field without end: whoever reads the file will say so.
        return []


def _separator(lines: Sequence[str]) -> str:
    """What splits the header, and every line like it; of several, what makes most columns."""
    best, most = ",", 1
    for mark in _SEPARATORS:
        widths = [len(record) for record in _records(lines, mark)]
        if widths and widths[0] > most and len(set(widths)) == 1:
            best, most = mark, widths[0]
    return best


def _decimal(records: Sequence[Sequence[str]]) -> str:
    """A comma if numbers have one before their decimals; where all of them might be thousands, they stay text."""
    fields = {field.strip() for record in records[1:] for field in record}
    found = [match for field in fields if (match := _COMMA.fullmatch(field))]
    sure = any(len(match[1]) != _GROUP for match in found)
    return "," if sure and not any(_POINT.fullmatch(field) for field in fields) else "."
