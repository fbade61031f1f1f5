"""The probes there are: what each needs of its subject, and what it may spend."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from efface._errors import InputError
from efface._validate import did_you_mean
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.subjects import Access

Suite = Literal["quick", "full"]

_ROOM = __name__.rpartition(".")[0]
_ATTACKS = (
    *("wording", "completion", "noise", "inpainting", "steering"),
    *("inversion", "prompt_search", "ring_a_bell", "redrawing"),
)
MODULES = ("direct", "unprompted", "luck", *_ATTACKS, "likelihood", "features", "relearning")
"""Files of this room that register probes, in the order of tables: cheap and outside first."""


@dataclass(frozen=True)
class Probe:
    """A way to look for a concept that is said to be gone.

    Attributes:
        name: What it is called.
        run: `run(subject, case, **budget)` -> one row of scores, or several. It puts the erasure on itself, by
            `with subject.on() as view:`; it raises `NotApplicableError` where the subject lacks something.
        access: The furthest access that it needs.
        summary: One line.
        quick: Its budget in the quick suite: keyword arguments of `run`. None leaves it out of that suite.
        full: The same of the full suite.
        count: Name of the argument of `run` that says how many items it looks at, of a probe that can look further
            where a verdict is open. Then `run` takes `first` too: items before it are known, and are left out.
        anew: Whether looking further measures all items again, those before `first` too.
    """

    name: str
    run: Callable[..., Scores | Sequence[Scores]]
    access: Access
    summary: str
    quick: Mapping[str, Any] | None = field(default_factory=dict)
    full: Mapping[str, Any] | None = field(default_factory=dict)
    count: str = ""
    anew: bool = False

    def budget(self, suite: Suite) -> Mapping[str, Any] | None:
        """What it may spend in a suite; None where it is not part of it."""
        return self.quick if suite == "quick" else self.full


_PROBES: dict[str, Probe] = {}


def register(probe: Probe) -> Probe:
    """Let the suites know a probe; it stands at the end of its file."""
    _PROBES[probe.name] = probe
    return probe


def probes(suite: Suite | None = None) -> tuple[Probe, ...]:
    """All probes, or those of a suite, in the order of tables.

    Raises:
        InputError: If there is no such suite.
    """
    if suite is not None and suite not in get_args(Suite):
        raise InputError(f"suite={suite!r}: write {' or '.join(map(repr, get_args(Suite)))}")
    for module in MODULES:
        importlib.import_module(f"{_ROOM}.{module}")
    found = sorted(_PROBES.values(), key=_place)  # whichever of the files was imported first
    return tuple(p for p in found if suite is None or p.budget(suite) is not None)


def _place(probe: Probe) -> int:
    module = probe.run.__module__.rpartition(".")[2]
    return MODULES.index(module) if module in MODULES else len(MODULES)


def find_probe(name: str) -> Probe:
    """The probe of a name.

    Raises:
        InputError: If there is none; the text says which there are.
    """
    known = {probe.name: probe for probe in probes()}
    if name not in known:
        raise InputError(f"there is no probe {name!r}{did_you_mean(name, known)}: there are {', '.join(known)}")
    return known[name]
