"""Costly audits are made once in a run of the tests: the worker that needs one first files it, the others read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from efface.audit import Audit


@dataclass(frozen=True)
class Shared:
    """Audits by the call that makes them, in a folder of one run, in which no source changes."""

    folder: Path

    def __call__(self, make: Callable[..., Audit], *given: Any, **options: Any) -> Audit:
        """`make(*given, **options)`, or what another worker has made of that."""
        call = repr((_name(make), [_name(value) for value in given], sorted(options.items())))
        file = self.folder / f"{hashlib.sha256(call.encode()).hexdigest()}.json"
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                made = json.dumps(make(*given, **options).to_dict(pixels=True))
                file.with_suffix(".part").write_text(made, encoding="utf-8")
                file.with_suffix(".part").rename(file)  # what a worker that was killed has written is not read
        return Audit.from_dict(json.loads(file.read_text(encoding="utf-8")))


def _name(value: Any) -> Any:
    """A function by its name; its repr would differ from worker to worker."""
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value
