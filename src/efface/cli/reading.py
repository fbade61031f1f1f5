"""Which words language models still predict in texts, for `efface remember --texts`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface.audit import Audit
from efface.audit.remembrance import Registry
from efface.audit.remembrance.by_tokens import remembered_by_tokens
from efface.cli import options


def predicted(
    args: options.Remember, registry: Registry | None, column: Callable[[str], Any], shown: Mapping[str, Any]
) -> Audit:
    """The audit of two language models, or of one and an erasure of it.

    Args:
        args: What the user wrote.
        registry: Who may be remembered; None takes all words.
        column: Reads a column of a table.
        shown: Further options of the audit.
    """
    if args.after is None:
        raise InputError("AFTER is missing: --texts compares two language models, or one and an erasure saved of it")
    more = {name: value for name in ("length", "fewest") if (value := getattr(args, name)) is not None}
    if registry is not None and "fewest" in more:
        raise InputError("--fewest goes without --who: it says who is in the table that counts")
    return remembered_by_tokens(
        args.before,
        args.after,
        _texts(args.texts or "", column),
        target=args.target,
        registry=registry,
        placebos=args.placebo,
        **more,
        **shown,
    )


def _texts(spec: str, column: Callable[[str], Any]) -> list[str]:
    """A text a line of a .txt file, or a file of a folder, or a value of a column."""
    path = Path(spec)
    if path.suffix.lower() != ".txt" and not path.is_dir():
        return [str(each) for each in column(spec)]
    if not path.exists():
        raise FileNotFoundError(f"there is no file {spec}")
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    read = [_read(file) for file in files]
    found = read if path.is_dir() else [line for text in read for line in text.splitlines()]
    if not any(text.strip() for text in found):
        raise InputError(f"--texts {spec} has no text: write one a line in a .txt file, or one a file in a folder")
    return [text for text in found if text.strip()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}") from error
