"""A scrub that was interrupted goes on from its last checkpoint, with the same result."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import write_json
from efface.core.method import Method
from efface.core.site import Site

_FILE = "scrub.json"
SECONDS = 30.0
"""Least time between two writings of statistics that are not complete yet."""


class ScrubCheckpoint:
    """The state of a scrub in a folder.

    Tensors go to folders of their own before `scrub.json` is pointed to them, so that all agree whenever the process
    dies.

    Args:
        folder: Where to keep it; None keeps nothing.
        settings: What must be the same when the fit goes on; plain data.
        method: Whose fitters and erasers are kept.

    Raises:
        InputError: If the folder holds the state of another fit, or is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, settings: dict[str, Any], method: Method) -> None:
        self._folder = None if folder is None else Path(folder)
        self._method, self._last = method, time.monotonic()
        self._data: dict[str, Any] = {"settings": settings, "erasers": [], "state": None, "count": 0}
        if self._folder is not None and (self._folder / _FILE).is_file():
            self._read(self._folder / _FILE, settings)

    def _read(self, path: Path, settings: dict[str, Any]) -> None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            theirs, _ = data["settings"], (data["erasers"], data["state"], data["count"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}): delete {path.parent}") from error
        mine = json.loads(json.dumps(settings))
        if differ := [key for key in mine if theirs.get(key) != mine[key]]:
            raise InputError(
                f"{path.parent} is the checkpoint of another fit, it differs in {', '.join(differ)}: delete it, or "
                "name another folder"
            )
        self._data = data

    def load_erasers(self) -> dict[Site, Any]:
        """The erasers of the sites that are done, in order."""
        return {
            Site.parse(text): self._method.erasure.load(self._path(f"eraser-{i}"))  # type: ignore[attr-defined]
            for i, text in enumerate(self._data["erasers"])
        }

    def load_fitters(self, sites: list[Site]) -> tuple[dict[Site, Any], int]:
        """Statistics of these sites and the number of batches in them; nothing and 0 if there are none."""
        state = self._data["state"]
        if state is None or list(state["sites"]) != [str(site) for site in sites]:
            return {}, 0
        folder = self._path(state["name"])
        load = self._method.fitter.load  # type: ignore[attr-defined]
        fitters = {site: load(folder / str(i), device=state["sites"][str(site)]) for i, site in enumerate(sites)}
        return fitters, state["batches"]

    def save_sometimes(self, fitters: dict[Site, Any], batches: int) -> None:
        """Write statistics if enough time has gone by since the last."""
        if self._folder is None or time.monotonic() - self._last < SECONDS:
            return
        old = self._data["state"]
        name = f"state-{self._data['count'] + 1}"
        for i, fitter in enumerate(fitters.values()):
            fitter.save(self._path(name) / str(i))
        devices = {str(site): str(fitter.moments.s_xx.device) for site, fitter in fitters.items()}
        self._write(state={"name": name, "sites": devices, "batches": batches}, count=self._data["count"] + 1)
        self._remove(old)
        self._last = time.monotonic()

    def save_eraser(self, site: Site, eraser: Any) -> None:
        """Write the eraser of a site that is done."""
        if self._folder is None:
            return
        old = self._data["state"]
        eraser.save(self._path(f"eraser-{len(self._data['erasers'])}"), overwrite=True)
        self._write(erasers=[*self._data["erasers"], str(site)], state=None)
        self._remove(old)
        self._last = time.monotonic()

    def clear(self) -> None:
        """The fit is complete: what was written here is removed, and the folder if nothing else is in it."""
        if self._folder is None or not self._folder.is_dir():
            return
        (self._folder / _FILE).unlink(missing_ok=True)
        for pattern in ("eraser-*", "state-*"):
            for path in self._folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _write(self, **changes: Any) -> None:
        self._data |= changes
        write_json(self._path(_FILE), self._data)

    def _remove(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            shutil.rmtree(self._path(state["name"]), ignore_errors=True)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name
