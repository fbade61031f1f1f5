"""An audit: findings in context, which can be kept as plain data and shows itself in every form.

How it looks is the business of `efface.report`, which knows the plain data alone and is imported when something is
drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from efface._errors import FormatError, InputError, MissingExtraError
from efface.audit.figure import Figure, Table
from efface.audit.finding import Finding
from efface.audit.plain import Plain
from efface.core.doors import check_call
from efface.report.data import AuditData, warnings_of

VERSION = 2
"""Version of the plain-data form of an `Audit`."""


@dataclass(frozen=True)
class Audit(Plain):
    """Findings in context: what was asked, what was measured, what follows, what does not.

    Attributes:
        title: The question or the subject.
        text: Paragraphs: what was done, in plain words.
        conclusions: Sentences that follow from the findings.
        findings: The numbers.
        tables: Further tables.
        figures: Figures as data.
        caveats: What the numbers do not show.
        settings: How it was run: plain data.
        provenance: What was audited, with which versions, when and by which call: plain data, as
            `efface.core.provenance` makes it. It does not count when two audits are compared.
        parts: Audits within this one, in order.

    >>> audit = Audit("Sex in the diabetes table", conclusions=("Gone.",), findings=(Finding("accuracy", 0.5),))
    >>> Audit.from_dict(audit.to_dict()) == audit
    True
    >>> print(audit)
    Sex in the diabetes table
    =========================
    measure   value  in words
    --------  -----  --------
    accuracy  0.500
    * Gone.
    """

    title: str
    text: tuple[str, ...] = ()
    conclusions: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    caveats: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    parts: tuple[Audit, ...] = ()
    version: int = VERSION

    @property
    def warnings(self) -> tuple[str, ...]:
        """Every sentence of this audit and its parts that has to be seen first; those of parts name them."""
        return tuple(warnings_of(cast(AuditData, super().to_dict())))

    def to_dict(self, *, pixels: bool = False) -> dict[str, Any]:
        """Plain data; warnings stand at its top."""
        found = super().to_dict(pixels=pixels)
        return {"title": found.pop("title"), "warnings": warnings_of(cast(AuditData, found)), **found}

    @classmethod
    def _derived(cls) -> set[str]:
        return {"warnings"}

    def walk(self) -> Iterator[Audit]:
        """This audit and all within it, in order of reading."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def find(self, family: str, name: str, condition: str = "") -> Finding:
        """The one finding of that family, name and condition, here or in a part.

        Raises:
            InputError: If there is none, or more than one; the text lists those there are.
        """
        check_call(Audit.find, locals())
        wanted = (family, name, condition)
        found = [f for a in self.walk() for f in a.findings if (f.family, f.name, f.condition) == wanted]
        if len(found) != 1:
            there = ", ".join(f"{f.title} ({f.condition})" for a in self.walk() for f in a.findings)
            raise InputError(f"{len(found)} findings are {wanted}, expected one of: {there}")
        return found[0]

    def html(self) -> str:
        """One self-contained page.

        Raises:
            MissingExtraError: If jinja2 or matplotlib is not installed.
        """
        from efface.report.html import to_html

        return to_html(self._shown())

    def markdown(self) -> str:
        """Markdown: what it says, its tables, its figures in words."""
        from efface.report.markdown import to_markdown

        return to_markdown(self._shown())

    def json(self) -> str:
        """JSON, without the pixels of pictures; `Audit.from_dict(json.loads(text))` gives the audit back."""
        from efface.report.saving import to_json

        return to_json(self._shown())

    def to_frame(self) -> Any:
        """A `pandas.DataFrame` with a row for each finding, also of the parts.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        from efface.report.frame import to_frame

        return to_frame(self._shown())

    def plot(self, figure: int | str = 0) -> Any:
        """One of its figures, or of its parts', as a `matplotlib.figure.Figure`.

        Args:
            figure: Its place in order of reading, or its title.

        Raises:
            InputError: If there is no such figure; the text lists those there are.
            MissingExtraError: If matplotlib is not installed.
        """
        check_call(Audit.plot, locals())
        figures = [f for a in self.walk() for f in a.figures]
        found = figures[figure:][:1] if isinstance(figure, int) else [f for f in figures if f.title == figure]
        if not found:
            there = ", ".join(f"{i}: {f.title!r}" for i, f in enumerate(figures)) or "none"
            raise InputError(f"there is no figure {figure!r}; figures of this audit are {there}")
        return found[0].plot()

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write a file that ends in `.html`, `.json` or `.md`, or a folder with `report.html` and `report.json`.

        Everything is rendered before the first byte is written, and each file appears in one step.

        Returns:
            The paths written.

        Raises:
            InputError: If the suffix is another, or `path` is a file where a folder is meant.
            MissingExtraError: If a page is asked for and jinja2 or matplotlib is not installed.
        """
        from efface.report.saving import save

        return save(self._shown(), path)

    def _repr_html_(self) -> str | None:
        from efface.report.html import to_fragment

        try:
            return to_fragment(self._shown())
        except MissingExtraError:  # a notebook then shows the text
            return None

    def __str__(self) -> str:
        from efface.report.markdown import to_text

        return to_text(self._shown()).rstrip("\n")

    def _shown(self) -> AuditData:
        return cast(AuditData, self.to_dict(pixels=True))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The audit that `to_dict` wrote, by this or an older efface.

        Raises:
            FormatError: If a newer efface wrote it, or it is no audit.
        """
        version = dict(data).get("version") if isinstance(data, Mapping) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise FormatError("this is not an audit of efface: it has no integer version")
        if version > VERSION:
            raise FormatError(
                f"this audit has version {version}, this efface reads up to {VERSION}: "
                "upgrade with  pip install -U efface"
            )
        return super().from_dict({**data, "version": VERSION})

    @classmethod
    def _kinds(cls) -> dict[str, type[Plain]]:
        return {"findings": Finding, "tables": Table, "figures": Figure, "parts": Audit}
