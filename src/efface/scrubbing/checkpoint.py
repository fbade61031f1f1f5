"""A scrub that was interrupted goes on from its last checkpoint, with the same result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efface._validate import check_int
from efface.core.checkpoint import Checkpoint
from efface.core.codec import fields_of
from efface.core.method import Method
from efface.core.site import Site
from efface.scrubbing.statistics import Statistics


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

    def load_fitters(self, sites: Sequence[Site], kept: Statistics) -> int:
        """Keep the statistics of these sites; the number of batches in them, 0 if there are none."""
        if (state := self._state) is None:
            return 0
        load = self._method.fitter.load  # type: ignore[attr-defined]
        with self._saved.reading():
            devices, batches = fields_of(state, sites=dict[str, str], batches=int)
            if list(devices) != [str(site) for site in sites]:
                return 0
            folder, batches = self._saved.path(_FITTERS), check_int(batches, "batches", least=0)
            for i, site in enumerate(sites):
                kept.add(site, load(folder / str(i), device=devices[str(site)]))
            return batches

    def save_sometimes(self, kept: Statistics, batches: int) -> None:
        """Write statistics if enough time has gone by since the last."""
        if not self._saved.due():
            return

        def save(folder: Path) -> None:
            for i, site in enumerate(kept):
                with kept.at(site) as fitter:
                    fitter.save(folder / str(i))

        devices = {str(site): str(kept.device(site)) for site in kept}
        self._state = {"sites": devices, "batches": batches}
        self._saved.write(self._position(), {_FITTERS: save})

    def save_erasers(self, erasers: Mapping[Site, Any]) -> None:
        """Write the erasers of sites that are done."""
        parts = {_eraser(i): each.save for i, each in enumerate(erasers.values(), len(self._erasers))}
        self._erasers, self._state = [*self._erasers, *map(str, erasers)], None
        self._saved.write(self._position(), {**parts, _FITTERS: None})

    def _position(self) -> dict[str, Any]:
        return {"erasers": self._erasers, "state": self._state}


_FITTERS = "fitters"


def _eraser(i: int) -> str:
    return f"eraser {i}"
