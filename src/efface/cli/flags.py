"""What the commands' options are made of: arguments, flags, those that several commands have, and their base.

Nothing here imports torch, so that help and completion are quick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any, ClassVar


def argument(help: str, metavar: str, default: Any = ..., kind: str | None = None) -> Any:
    """A field that is given by its place; arguments as of `flag`, and of a world which kind it can be."""
    return _field(default, {"help": help, "metavar": metavar, "names": None, "world": kind})


def flag(default: Any, help: str, metavar: str | None = None, *names: str) -> Any:
    """A field that is given by name.

    Args:
        default: Its default; `...` if it must be given, and a list if it may be given several times.
        help: One line for people.
        metavar: What stands for its value in the help; of numbers it says the range (`app`): `"N"` is a count.
        *names: Its flags, if these are not the name of the field with two dashes.
    """
    return _field(default, {"help": help, "metavar": metavar, "names": names})


def _field(default: Any, metadata: dict[str, Any]) -> Any:
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=MISSING if default is ... else default, metadata=metadata)


def x() -> Any:
    """One file of rows."""
    return argument("embeddings: .npy .npz .csv .parquet .safetensors (file.npz:name)", "X")


def several() -> Any:
    """One file of rows, or several."""
    return argument(
        "embeddings: .npy .npz .csv .parquet .safetensors (file.npz:name); several files, a folder of them or a quoted "
        "pattern are read one after the other",
        "X...",
    )


def concepts(default: Any = ...) -> Any:
    """Labels of one concept or more."""
    text = "labels: a column of X, or a file (z.npy, z.npz:name, z.csv:column); repeat for several concepts"
    return flag(default, text, "Z", "--concept")


def kind() -> Any:
    """What numbers are as labels."""
    return flag("auto", "what numbers are as labels (auto: integers classes, floats quantities); text is classes")


def chunk_rows() -> Any:
    """Rows in memory at a time."""
    return flag(4096, "rows in memory at a time", "N")


def engine() -> Any:
    """Where it runs."""
    return flag("local", "where it runs: in this process, or in tasks of Ray (pip install 'efface[ray]')")


def address() -> Any:
    """Of which cluster."""
    return flag(
        None, "of --engine ray: a cluster (default: a Ray on this machine, for as long as it takes)", "HOST:PORT"
    )


def method(default: Any, text: str) -> Any:
    """How to erase."""
    return flag(default, f"{text}; --method help lists them, --method NAME --help says more", "NAME", "--method")


def settings() -> Any:
    """Options of the method."""
    return flag([], "an option of the method; may be given several times", "NAME=VALUE", "--set")


def report() -> Any:
    """Where the report goes."""
    return flag(None, "report to write: .html, .json or .md", "FILE", "-o", "--output")


def seed() -> Any:
    """Of every random choice."""
    return flag(0, "of every random choice", "SEED")


def force() -> Any:
    """Whether to replace what is there."""
    return flag(False, "replace what is there already", None, "--force")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of what a command is asked for.

    Attributes:
        command_line: How it was called, for what it writes; not a flag.
    """

    subject: ClassVar[str | None] = None
    """What the methods of `--method` are for."""
    one_of: ClassVar[Sequence[tuple[str, ...]]] = ()
    """Groups of flags of which at most one is given."""

    command_line: str = ""
