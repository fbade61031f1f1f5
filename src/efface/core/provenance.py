"""Where a result comes from: versions, date, subject, data, seed and call, as plain data to be kept beside it.

Nothing of this may enter a content hash: the same result, made on another day, is the same result.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from efface._errors import InputError
from efface.core.arrays import dense
from efface.core.hashing import feed

_LIBRARIES = {
    "torch": "torch",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "transformers": "transformers",
    "diffusers": "diffusers",
    "captum": "captum",
    "scipy": "scipy",
    "statsmodels": "statsmodels",
}
_EPOCH = "SOURCE_DATE_EPOCH"
_CHUNK = 2**20
_LONGEST = 60
_DEEPEST = 3


def provenance(
    *,
    subject: Any = None,
    data: Mapping[str, Any] | None = None,
    seed: int | None = None,
    call: str = "",
    now: Callable[[], datetime] | None = None,
) -> dict[str, Any]:
    """What was made from what, with which versions, when and how; what is not known is left out.

    Args:
        subject: What it is about, or a list of such things: a name, a model, a pipeline, an erasure, an array.
        data: Name -> what was read: an array, a file, or a mapping or sequence of arrays. Their content is hashed.
        seed: The seed.
        call: The call (see `called`) or command.
        now: Clock. None takes the environment's `SOURCE_DATE_EPOCH`, as builds that can be repeated do, or the time.

    >>> found = provenance(subject="the diabetes table", seed=0, now=lambda: datetime(2026, 1, 2, tzinfo=UTC))
    >>> found["date"], found["subject"], found["seed"]
    ('2026-01-02T00:00:00Z', [{'name': 'the diabetes table', 'sha256': ''}], 0)
    """
    subjects = subject if isinstance(subject, list) else [] if subject is None else [subject]
    found = {
        "efface": _version("efface"),
        "libraries": _libraries(),
        "date": _date(now),
        "subject": [_subject(each) for each in subjects if each is not None],
        "data": [{"name": n, "sha256": content_hash(v)} for n, v in (data or {}).items() if v is not None],
        "seed": seed,
        "call": call,
    }
    return {key: value for key, value in found.items() if value not in ([], None, "")}


def content_hash(value: Any) -> str:
    """SHA-256 of the content of an array, tensor or file, or of a mapping or sequence of such; the same on any device.

    >>> import torch
    >>> content_hash(np.zeros(3)) == content_hash(torch.zeros(3, dtype=torch.float64))
    True
    >>> content_hash([0.0, 1.0]) == content_hash([1.0, 0.0])
    False
    """
    total = hashlib.sha256()
    _feed(total, value)
    return total.hexdigest()


def called(function: str, arguments: Mapping[str, Any]) -> str:
    """A call as text: what is short is written out, arrays by their shape, functions by their name.

    Args:
        function: Its full name.
        arguments: Its arguments, e.g. `locals()` in its first line; those that are None or empty are left out.

    >>> called("efface.audit.rows", {"x": np.zeros((3, 2)), "fit": content_hash, "task": None, "seed": 0})
    'efface.audit.rows(x=ndarray(3, 2), fit=content_hash, seed=0)'
    """
    given = {name: _said(value) for name, value in arguments.items() if not _is_left_out(value)}
    return f"{function}({', '.join(f'{name}={text}' for name, text in given.items())})"


def _is_array(value: Any) -> bool:
    return not getattr(value, "is_nested", False) and isinstance(getattr(value, "shape", None), tuple)


def _is_left_out(value: Any) -> bool:
    return value is None or (type(value) in (str, dict, list, tuple) and not value)


def _said(value: Any, depth: int = 0) -> str:
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, str | bool | int | float):
        text = repr(value)
    elif _is_array(value):
        text = f"{type(value).__name__}{tuple(value.shape)}"
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key!r}: {_said(each, depth + 1)}' for key, each in value.items())}}}"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(_said(each, depth + 1) for each in value)}]"
    else:
        text = str(getattr(value, "__qualname__", type(value).__name__))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _date(now: Callable[[], datetime] | None) -> str:
    epoch = os.environ.get(_EPOCH, "")
    if now is not None:
        moment = now()
    else:
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _libraries() -> dict[str, str]:
    """Those that can have had a part in it: the ones that were imported."""
    there = {name: _version(name) for module, name in _LIBRARIES.items() if module in sys.modules}
    return {"python": platform.python_version(), **{name: version for name, version in there.items() if version}}


def _subject(subject: Any) -> dict[str, str]:
    if isinstance(subject, Mapping):
        return {"name": str(subject.get("name", "")), "sha256": str(subject.get("sha256", ""))}
    if isinstance(subject, str):
        return {"name": subject, "sha256": ""}
    if isinstance(subject, Tensor | np.ndarray):
        return {"name": _said(subject), "sha256": content_hash(subject)}
    return {"name": _named(subject), "sha256": _digest(subject)}


def _digest(subject: Any) -> str:
    """The content hash of a value that has one; an erasure by functions, which cannot be saved, has none."""
    try:
        found = getattr(subject, "digest", "")
    except InputError:
        return ""
    return found if isinstance(found, str) else ""


def _named(subject: Any) -> str:
    """The type of a model, pipeline or function, and what it was loaded as, if it knows: no path on this machine."""
    kind = str(getattr(subject, "__qualname__", type(subject).__name__))
    source = getattr(subject, "name_or_path", None)
    if not isinstance(source, str) or not source:
        return kind
    return f"{kind} {Path(source).name if Path(source).is_absolute() else source}"


def _feed(total: Any, value: Any) -> None:
    if isinstance(value, os.PathLike):
        with Path(value).open("rb") as file:
            while chunk := file.read(_CHUNK):
                total.update(chunk)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            total.update(f"{key}:".encode())
            _feed(total, value[key])
    elif isinstance(value, Sequence) and not isinstance(value, str) and any(map(_is_array, value)):
        for each in value:
            _feed(total, each)
    else:
        feed(total, dense(value, "a value") if isinstance(value, Tensor) else value)
