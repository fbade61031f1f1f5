"""Python source and the lexical type of every character: exact labels, because Python's own tokenizer gives them."""

from __future__ import annotations

import hashlib
import io
import keyword
import random
import sys
import sysconfig
import token as token_types
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._validate import check_positive_int

Split = Literal["train", "heldout"]
Kind = Literal["library", "tests"]
"""What a file is: a module, or tests of modules. The held-out split has no tests, and of the training files about half
are: what is told apart between splits may be the one from the other."""

LEXICAL_TYPES: tuple[str, ...] = (
    "name",
    "keyword",
    "number",
    "string",
    "comment",
    "operator",
    "delimiter",
    "bracket",
    "newline",
    "blank line",
    "indentation",
    "space",
)
"""What a character can be. `newline` ends a statement (NEWLINE); `blank line` is any other line end (NL); `indentation`
is whitespace at the start of a line, `space` whatever else is in no token: spaces, a backslash at the end of a line.
Brackets, delimiters and operators are those of the language reference, keywords those of `keyword.kwlist`."""

_BRACKETS = frozenset("()[]{}")
_DELIMITERS = frozenset({",", ":", ".", ";", "@", "=", "->", ":=", "..."})
_TYPE = {name: index for index, name in enumerate(LEXICAL_TYPES)}
_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "data", "encoded_modules", "encodings", "pydoc_data"}
)
"""Not programs: other people's packages, test data, and tables written as Python."""
_HELDOUT_PERCENT = 20


@dataclass(frozen=True)
class SourceFile:
    """A file of the standard library.

    Attributes:
        name: Path below the library's folder, with forward slashes.
        text: The source.
        types: Lexical type of each character, index into `LEXICAL_TYPES`, `(len(text),)`, int8.
    """

    name: str
    text: str
    types: NDArray[np.int8]


def lexical_types(source: str) -> NDArray[np.int8]:
    """Lexical type of every character of `source`, index into `LEXICAL_TYPES`, `(len(source),)`.

    Up to Python 3.11 an f-string is one string; from 3.12 on `tokenize` looks inside, and its expressions are code.

    Raises:
        InputError: If Python's tokenizer does not accept the source.

    Does not guarantee: that the source is a program. `tokenize` lets some characters pass that begin no token: `$` is
    `space` here up to Python 3.11, with a quote that is never closed, and `operator` from 3.12 on.

    >>> [LEXICAL_TYPES[t] for t in lexical_types("if x:")]
    ['keyword', 'keyword', 'space', 'name', 'delimiter']
    """
    out = np.full(len(source), _TYPE["space"], dtype=np.int8)
    starts = _line_starts(source)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    reached, before = 0, ""
    try:
        for kind, text, (row, column), (end_row, end_column), _ in tokens:
            start = starts[row - 1] + column if row <= len(starts) else len(source)
            if before.endswith("STRING_MIDDLE"):
                # of a brace that stands doubled in an f-string, `tokenize` gives the first
                out[reached:start] = _TYPE["string"]
            reached = starts[end_row - 1] + end_column if end_row <= len(starts) else len(source)
            before = token_types.tok_name[kind]
            name = _type_of(before, text)
            if name is not None:
                out[start:reached] = _TYPE[name]
    except (tokenize.TokenError, SyntaxError) as error:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise InputError(f"this is not source that Python {version} can read: {error}") from None
    return _mark_indentation(source, starts, out)


def _line_starts(source: str) -> list[int]:
    """Where each line begins, by the lines that `StringIO.readline` (and so the tokenizer) sees."""
    starts, at = [], 0
    for line in io.StringIO(source):
        starts.append(at)
        at += len(line)
    return starts


def _type_of(kind: str, text: str) -> str | None:
    match kind:
        case "NAME":
            return "keyword" if keyword.iskeyword(text) else "name"
        case "NUMBER":
            return "number"
        case "STRING" | "FSTRING_START" | "FSTRING_MIDDLE" | "FSTRING_END":
            return "string"
        case "TSTRING_START" | "TSTRING_MIDDLE" | "TSTRING_END":
            return "string"
        case "COMMENT":
            return "comment"
        case "OP":
            return "bracket" if text in _BRACKETS else "delimiter" if text in _DELIMITERS else "operator"
        case "NEWLINE":
            return "newline"
        case "NL":
            return "blank line"
    return None


def _mark_indentation(source: str, starts: list[int], types: NDArray[np.int8]) -> NDArray[np.int8]:
    """Whitespace at the start of a line is indentation, unless the line goes on inside a string."""
    for start in starts:
        at = start
        while at < len(source) and source[at] in " \t\f" and types[at] == _TYPE["space"]:
            types[at] = _TYPE["indentation"]
            at += 1
    return types


def kind_of(name: str) -> Kind:
    """Whether a file below the library's folder is a module or tests.

    >>> kind_of("test/test_ast.py"), kind_of("ast.py")
    ('tests', 'library')
    """
    return "tests" if any(part in ("test", "tests", "idle_test") for part in Path(name).parts) else "library"


def read_library(
    split: Split,
    *,
    kind: Kind | None = None,
    folder: Path | None = None,
    max_files: int | None = None,
    seed: int = 0,
) -> Iterator[SourceFile]:
    """Files of the standard library of the running Python, in order of their names.

    Whole top-level modules and packages are held out, chosen by a hash of their name; `test` and the packages' own
    tests are for training only, and are missing from some installations. Files that do not tokenize are left out.

    Args:
        split: `"train"` or `"heldout"`.
        kind: `"library"` or `"tests"` alone; `None` reads both.
        folder: Where the library lies; `None` asks `sysconfig`.
        max_files: Read no more than this many, drawn at random; `None` reads all.
        seed: Of that draw.

    Raises:
        InputError: When the first file is asked for, if `split` is neither or the folder holds no Python source.
    """
    if split not in ("train", "heldout"):
        raise InputError(f'split={split!r}: write "train" or "heldout"')
    if kind not in ("library", "tests", None):
        raise InputError(f'kind={kind!r}: write "library", "tests" or None')
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in _paths(root, split) if kind is None or kind_of(path.as_posix()) == kind]
    if max_files is not None and check_positive_int(max_files, "max_files") < len(paths):
        paths = sorted(random.Random(seed).sample(paths, max_files))
    for path in paths:
        yield from _read(root, path)


def _paths(root: Path, split: Split) -> list[Path]:
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    if not paths:
        raise InputError(f"{root} holds no Python source: pass folder=")
    return [path for path in paths if not _SKIPPED_FOLDERS.intersection(path.parts) and _split_of(path) == split]


def _split_of(path: Path) -> Split | None:
    in_tests = kind_of(path.as_posix()) == "tests"
    if _held_out(path.parts[0].removesuffix(".py")):
        return None if in_tests else "heldout"
    # tests are named after what they test: those of a held-out module would give it away
    tests = [part.removesuffix(".py").removeprefix("test_") for part in path.parts if part.startswith("test_")]
    return None if tests and tests[0] and _held_out(tests[0]) else "train"


def _held_out(module: str) -> bool:
    return int(hashlib.sha256(module.encode()).hexdigest(), 16) % 100 < _HELDOUT_PERCENT


def _read(root: Path, path: Path) -> Iterator[SourceFile]:
    try:
        text = (root / path).read_text(encoding="utf-8")
        yield SourceFile(path.as_posix(), text, lexical_types(text))
    except (UnicodeDecodeError, InputError):
        return
