"""An audit as a table: a row a finding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from efface._lazy import require
from efface.report.data import AuditData, FindingData


def to_frame(audit: AuditData) -> Any:
    """A `pandas.DataFrame` with a row for each finding of the audit and its parts.

    Columns are the attributes of a finding, its verdict, and `part`: titles from the whole down, with ` / ` between.
    A finding that is not scored has no value, so that it does not enter a mean.

    Raises:
        MissingExtraError: If pandas is not installed.
    """
    rows = list(_rows(audit, audit["title"]))
    columns = ["part", *(key for key in FindingData.__annotations__ if key not in ("side", "reason"))]
    return require("pandas", extra="report").DataFrame(rows, columns=columns)


def _rows(audit: AuditData, part: str) -> Iterator[dict[str, Any]]:
    for finding in audit["findings"]:
        yield {"part": part, **finding}
    for inner in audit["parts"]:
        yield from _rows(inner, f"{part} / {inner['title']}")
