"""How the statistics of a scrub are kept within a budget of memory: in one pass, in several, or on disk.

All of these are exact: float64 sums of the same batches in the same order, so that erasers are the same bits.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from efface._errors import InputError
from efface._memory import size_in_words
from efface.core.site import Site
from efface.moments.gram import rows_per_chunk, rows_per_product
from efface.moments.state import state_shapes
from efface.scrubbing.forward import Passed

Beyond: TypeAlias = Literal["passes", "disk"]

_SOLVING = 6
"""Times the square of a site that finding its eraser takes beside it, at most: eigenvalues of a singular covariance."""


@dataclass(frozen=True)
class Need:
    """What one site needs.

    Attributes:
        sums: Bytes of its statistics.
        square: Those of them that may lie on disk, a `(d, d)` scatter.
        work: Bytes that adding a batch or finding the eraser takes beside them.
        device: Where.
    """

    sums: int
    square: int
    work: int
    device: torch.device

    def __add__(self, other: Need) -> Need:
        """Of two fitters at one site, which are worked on one after the other."""
        return Need(self.sums + other.sums, self.square + other.square, max(self.work, other.work), self.device)


@dataclass(frozen=True)
class Plan:
    """How the statistics of a scrub are kept.

    Attributes:
        passes: The sites whose statistics are gathered in each pass over the data, in the order of a forward pass.
        needs: Site -> what it needs.
        memory: The budget in bytes; None if none was stated.
        on_disk: Whether squares lie in files, all but that of the site at hand.
        peak: Bytes of statistics, and of work with them, on the device that has most of them at once. The model, its
            hidden states and erasers that are done are not in it.
        disk: Bytes in files.
        forward: How many whole forward passes over the data the passes are about, as each stops at its last site; the
            one that measures what is left is not in it.
    """

    passes: tuple[tuple[Site, ...], ...]
    needs: Mapping[Site, Need]
    memory: int | None
    on_disk: bool
    peak: int
    disk: int
    forward: float

    def __str__(self) -> str:
        sums = size_in_words(sum(need.sums for need in self.needs.values()))
        sizes = sorted({len(sites) for sites in self.passes})
        each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        where = f", {size_in_words(self.disk)} of them in files" if self.on_disk else ""
        budget = "" if self.memory is None else f" of {size_in_words(self.memory)} allowed"
        return (
            f"{len(self.needs)} sites, {sums} of sums{where}: {len(self.passes)} "
            f"{'pass' if len(self.passes) == 1 else 'passes'} over the data with {each} sites each, about "
            f"{self.forward:.1f} forward passes; at most {size_in_words(self.peak)}{budget}"
        )


def need(fitter: Any, seen: Passed, z_dim: int, rows: int, *, merging: bool) -> Need:
    """What a site needs.

    Args:
        fitter: One of its kind, of any width, with the options of the fit.
        seen: What a forward pass shows there.
        z_dim: Columns of the concepts.
        rows: Hidden states in the largest batch.
        merging: Whether statistics of several processes are merged, of which one holds several copies meanwhile.
    """
    d, item = seen.width, 16 if fitter.dtype.is_complex else 8
    size = item * sum(torch.Size(shape).numel() for shape in state_shapes(d, z_dim, fitter.second).values())
    square = item * d * d if fitter.second == "full" else 0
    chunk, product = rows_per_chunk(d), rows_per_product(d)
    thin = min(rows, chunk) * 2 * z_dim * item
    adding = min(rows, product) * 2 * d * item + thin + rows * d * seen.dtype.itemsize + square * (1 + (rows > product))
    copies = size if rows > chunk else 0  # to go back to, should a later chunk be refused
    solving = _SOLVING * (square + d * z_dim * item)
    return Need(size, square, max(adding + copies, solving, _SOLVING * size if merging else 0), seen.device)


def planned(needs: Mapping[Site, Need], *, memory: int | None, beyond: Beyond, one_by_one: bool = False) -> Plan:
    """The least number of passes, one after the other in the order of sites, whose statistics are within a budget.

    Args:
        needs: Of each site, in the order of a forward pass.
        memory: The budget in bytes of each device; None is no limit.
        beyond: What becomes of statistics that are beyond it.
        one_by_one: Whether each site is fitted by itself anyway.

    Raises:
        InputError: If no plan is within the budget; the text says what would do.
    """
    sites = list(needs)
    if one_by_one or memory is None:
        passes = [[site] for site in sites] if one_by_one else [sites]
        found = _made(passes, needs, memory, on_disk=False)
    elif beyond == "disk":
        found = _made([sites], needs, memory, on_disk=False)
        if found.peak > memory and any(need.square for need in needs.values()):
            found = _made([sites], needs, memory, on_disk=True)
    else:
        found = _made(_groups(sites, needs, memory), needs, memory, on_disk=False)
    if memory is not None and found.peak > memory:
        _refuse(found, memory, beyond, one_by_one)
    return found


def _made(passes: Sequence[Sequence[Site]], needs: Mapping[Site, Need], memory: int | None, *, on_disk: bool) -> Plan:
    peak = max(_peak([needs[site] for site in sites], on_disk=on_disk) for sites in passes)
    place = {site: i for i, site in enumerate(needs, 1)}
    forward = sum(place[sites[-1]] for sites in passes) / len(needs)
    disk = sum(need.square for need in needs.values()) if on_disk else 0
    return Plan(tuple(map(tuple, passes)), dict(needs), memory, on_disk, peak, disk, forward)


def _peak(needs: Sequence[Need], *, on_disk: bool = False) -> int:
    """Bytes at once, on the device that has most."""
    peaks = []
    for device in {need.device for need in needs}:
        here = [need for need in needs if need.device == device]
        if on_disk:
            peaks.append(sum(n.sums - n.square for n in here) + max(n.square + n.work for n in here))
        else:
            peaks.append(sum(n.sums for n in here) + max(n.work for n in here))
    return max(peaks)


def _groups(sites: Sequence[Site], needs: Mapping[Site, Need], memory: int) -> list[list[Site]]:
    """As many sites a pass as fit, in order; one that does not fit by itself is a pass of its own.

    They are filled from the last site on: what is left for the first pass is few sites then, and a short pass.
    """
    groups: list[list[Site]] = [[]]
    for site in reversed(sites):
        if groups[0] and _peak([needs[s] for s in (site, *groups[0])]) > memory:
            groups.insert(0, [])
        groups[0].insert(0, site)
    return groups


def _refuse(plan: Plan, memory: int, beyond: Beyond, one_by_one: bool) -> None:
    needs = plan.needs
    alone = max(_peak([need]) for need in needs.values())
    most = max(needs, key=lambda site: _peak([needs[site]]))
    whole = _peak([*needs.values()])
    if alone > memory:
        text = (
            f"the statistics of {most} alone take {size_in_words(needs[most].sums)} and up to "
            f"{size_in_words(needs[most].work)} to work with: write memory={_rounded(alone)!r} at least"
        )
        orthogonal = ", or method='orth', which keeps no covariance" if needs[most].square else ""
        raise InputError(f"memory={size_in_words(memory)} is too little: {text}{orthogonal}")
    small = size_in_words(plan.peak)
    raise InputError(
        f"memory={size_in_words(memory)} is too little to have all sites in one pass, with squares on disk, which "
        f"leaves {small}: write beyond='passes', or memory={_rounded(plan.peak)!r}, or {_rounded(whole)!r} for no files"
    )


def _rounded(size: int) -> str:
    return f"{-(-size // 2**20)} MiB"


def check_disk(size: int, folder: Any) -> None:
    """Refuse files for which a folder has no room.

    Args:
        size: Bytes.
        folder: Where; None is the system's folder for what is temporary.

    Raises:
        InputError: If it has none; the text says how much it has.
    """
    where = folder or tempfile.gettempdir()
    free = shutil.disk_usage(where).free
    if size > free:
        raise InputError(
            f"squares of all sites take {size_in_words(size)} on disk, and {where} has {size_in_words(free)} left: "
            "name another folder, scratch=..., or write beyond='passes'"
        )
