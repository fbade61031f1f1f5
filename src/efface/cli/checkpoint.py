"""A fit that was interrupted goes on from its last checkpoint, with the same result."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import write_json

_FILE = "checkpoint.json"
SECONDS = 30.0
"""Least time between two states that are written."""


class Checkpoint:
    """The state of a fit in a folder.

    The statistics of a state go to a folder of their own before `checkpoint.json` is pointed to it, so that
    the two agree whenever the process dies.

    Args:
        folder: Where to keep it; None keeps nothing.
        settings: What must be the same when the fit goes on; plain data.
    """

    def __init__(self, folder: str | None, settings: dict[str, Any]) -> None:
        self._folder = None if folder is None else Path(folder)
        self._settings, self._last = settings, time.monotonic()

    def load(self, fitter: type) -> tuple[Any, int]:
        """The fitter and the number of rows that it has seen; None and 0 if there is no checkpoint.

        Raises:
            InputError: If the folder holds the state of a different fit.
        """
        if self._folder is None or not (self._folder / _FILE).is_file():
            return None, 0
        try:
            data = json.loads((self._folder / _FILE).read_text(encoding="utf-8"))
            settings, rows, state = data["settings"], data["rows"], data["state"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._folder / _FILE} is damaged ({error}): delete {self._folder}") from error
        self._check(settings)
        return fitter.load(self._folder / state), rows  # type: ignore[attr-defined]

    def _check(self, settings: dict[str, Any]) -> None:
        differ = [k for k in self._settings if settings.get(k) != json.loads(json.dumps(self._settings[k]))]
        if differ:
            raise InputError(
                f"{self._folder} is the checkpoint of another fit, it differs in {', '.join(differ)}: "
                "delete it, or name another folder with --checkpoint"
            )

    def save_sometimes(self, fitter: Any, rows: int) -> None:
        """Write a state if enough time has gone by since the last."""
        if self._folder is not None and time.monotonic() - self._last >= SECONDS:
            self._save(self._folder, fitter, rows)
            self._last = time.monotonic()

    def _save(self, folder: Path, fitter: Any, rows: int) -> None:
        state = f"rows-{rows}"
        fitter.save(folder / state)
        write_json(folder / _FILE, {"rows": rows, "state": state, "settings": self._settings})
        for old in folder.glob("rows-*"):
            if old.name != state:
                shutil.rmtree(old, ignore_errors=True)

    def clear(self) -> None:
        """Remove the state, when the fit is complete; what else is in the folder stays."""
        if self._folder is None or not (self._folder / _FILE).is_file():
            return
        (self._folder / _FILE).unlink()
        for state in self._folder.glob("rows-*"):
            shutil.rmtree(state, ignore_errors=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()
