"""A scrub that was interrupted goes on from its last checkpoint, with the same result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from efface._validate import check_int
from efface.core.checkpoint import Checkpoint
from efface.core.codec import fields_of
from efface.core.method import Method
from efface.core.site import Site


class ScrubCheckpoint:
    """The erasers of the sites that are done, and the statistics of those at work.

    Args:
        folder: Where to keep it; None keeps nothing.
        settings: What must be the same when the fit goes on; plain data.
        method: Whose fitters and erasers are kept.

    Raises:
        InputError: If the folder holds the state of another fit, or is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, settings: dict[str, Any], method: Method) -> None:
        self._saved, self._method = Checkpoint(folder, settings), method
        self.clear = self._saved.clear
        self._erasers: list[str] = []
        self._state: dict[str, Any] | None = None
        if self._saved.found:
            with self._saved.reading() as position:
                erasers, self._state = fields_of(position, erasers=tuple[str, ...], state=dict[str, Any] | None)
                self._erasers = [*erasers]

    @property
    def done(self) -> int:
        """How many sites are done."""
        return len(self._erasers)

    def load_erasers(self, most: int) -> dict[Site, Any]:
        """The erasers of the sites that are done, in order; what is done beyond so many is done again."""
        if most < self.done:
            self._erasers, self._state = self._erasers[:most], None
        load = self._method.erasure.load  # type: ignore[attr-defined]
        with self._saved.reading():
            return {Site.parse(text): load(self._saved.path(_eraser(i))) for i, text in enumerate(self._erasers)}

    def load_fitters(self, sites: list[Site]) -> tuple[dict[Site, Any], int]:
        """Statistics of these sites and the number of batches in them; nothing and 0 if there are none."""
        if (state := self._state) is None:
            return {}, 0
        load = self._method.fitter.load  # type: ignore[attr-defined]
        with self._saved.reading():
            devices, batches = fields_of(state, sites=dict[str, str], batches=int)
            if list(devices) != [str(site) for site in sites]:
                return {}, 0
            folder = self._saved.path(_FITTERS)
            fitters = {site: load(folder / str(i), device=devices[str(site)]) for i, site in enumerate(sites)}
            return fitters, check_int(batches, "batches", least=0)

    def save_sometimes(self, fitters: dict[Site, Any], batches: int) -> None:
        """Write statistics if enough time has gone by since the last."""
        if not self._saved.due():
            return

        def save(folder: Path) -> None:
            for i, fitter in enumerate(fitters.values()):
                fitter.save(folder / str(i))

        devices = {str(site): str(fitter.moments.s_xx.device) for site, fitter in fitters.items()}
        self._state = {"sites": devices, "batches": batches}
        self._saved.write(self._position(), {_FITTERS: save})

    def save_eraser(self, site: Site, eraser: Any) -> None:
        """Write the eraser of a site that is done."""
        part = _eraser(len(self._erasers))
        self._erasers, self._state = [*self._erasers, str(site)], None
        self._saved.write(self._position(), {part: eraser.save, _FITTERS: None})

    def _position(self) -> dict[str, Any]:
        return {"erasers": self._erasers, "state": self._state}


_FITTERS = "fitters"


def _eraser(i: int) -> str:
    return f"eraser {i}"
