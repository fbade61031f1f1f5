"""Models of the worlds lie in folders: whole, or refused; transformers reads them without the network and a word."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from efface._errors import FormatError
from efface._lazy import require

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def remedy(training: str, stage: str) -> str:
    """What to do about a file of a trained model that is missing or damaged."""
    return (
        "reinstall efface (from git: check that the file was checked out whole), or train it again with  "
        f"python -m {training} {stage} ship --work FOLDER"
    )


def check_files(folder: Path, names: Sequence[str], advice: str) -> None:
    """Refuse a folder with a missing or truncated file, before any library trips over it.

    Raises:
        FormatError: If so, with the advice.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FormatError(f"{folder} has no {' and no '.join(missing)}: {advice}")
    for name in names:
        problem = _damage(folder / name)
        if problem:
            raise FormatError(f"{folder / name} is damaged, {problem}: {advice}")


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path, advice: str, *, right: bool = True) -> None:
    """Give a module its tensors.

    Raises:
        FormatError: If they are of another one, by their names and shapes, or because `right` says so.
    """
    ours = {name: value.shape for name, value in module.state_dict().items()}
    if not right or ours != {name: value.shape for name, value in tensors.items()}:
        raise FormatError(f"{source} holds another network than this efface reads: {advice}")
    module.load_state_dict(tensors)


def _damage(path: Path) -> str | None:
    """What is wrong with a JSON or safetensors file, judged by its syntax, or its header and length."""
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # the latter of lists in lists in lists
            return f"no JSON ({error})"
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + length > size:
            return f"{size} bytes are less than its header"
    try:
        with safe_open(path, framework="pt"):
            return None
    except SafetensorError as error:
        return f"{size} bytes do not go with its header ({error})"


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """The library transformers, kept from the network and with its progress bars off; both are put back afterwards.

    Raises:
        MissingExtraError: If transformers is not installed.
    """
    with _offline():
        transformers = require("transformers", extra="hf")
        with _no_bars(transformers.utils.logging):
            yield transformers


@contextmanager
def _no_bars(logging: Any) -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub library from the network while a model is loaded: it reads these when it is first imported."""
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
