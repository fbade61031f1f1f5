"""Several concepts on the same data: one pass over the plain model, one covariance a site, a scrubber for each.

Only a parallel fit can share: in sequential order each concept's erasers change what its later sites see, so that
behind the first site no two concepts have the same hidden states.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import tee
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import shown
from efface.core.fingerprint import fingerprint
from efface.core.method import Method
from efface.core.row_labels import read_labels
from efface.core.site import Site
from efface.erasers.concepts import ConceptsFitter, checked_widths
from efface.scrubbing.batches import Batch, Batches, Finding
from efface.scrubbing.checkpoint import ScrubCheckpoint
from efface.scrubbing.companions import fitted_on, grid
from efface.scrubbing.config import ScrubConfig
from efface.scrubbing.fit import Fit, laid_out
from efface.scrubbing.forward import Passed, align, at_rest
from efface.scrubbing.planning import Need, need
from efface.scrubbing.scrubber import Scrubber
from efface.scrubbing.statistics import Statistics

_SEQUENTIAL = (
    "in sequential order each concept's erasers change what its later sites see, so that concepts share no statistics: "
    "write order='parallel', or a scrub for each concept, or scrub(model, data, efface.join_concepts(a, b)) for one "
    "scrubber that erases all"
)


@dataclass(frozen=True)
class SharedBatch(Batch):
    """A batch with the labels of several concepts.

    Attributes:
        every: Name -> labels; those of the first are its own.
    """

    every: Mapping[str, Tensor] = field(default_factory=dict)


class Lockstep:
    """Batches of one data set with the labels of several concepts; data that comes in batches is read once.

    Args:
        each: Name -> the batches of that concept.
    """

    def __init__(self, each: Mapping[str, Batches]) -> None:
        self._each = each
        self._first = next(iter(each.values()))
        self.ignore_index = self._first.ignore_index

    def __iter__(self) -> Iterator[SharedBatch]:
        many = list(self._each.values())
        read = [b.mappings() for b in many] if self._first.is_cut else tee(self._first.mappings(), len(many))
        streams = (
            self._named(name, b.over(stream)) for (name, b), stream in zip(self._each.items(), read, strict=True)
        )
        for batches in zip(*streams, strict=True):
            first, labels = batches[0], [batch.labels for batch in batches]
            every = dict(zip(self._each, labels, strict=True))
            yield SharedBatch(first.number, first.first, first.inputs, first.labels, every)

    def _named(self, name: str, stream: Iterator[Batch]) -> Iterator[Batch]:
        with of(name):
            yield from stream

    @property
    def count(self) -> int:
        """As `Batches`."""
        return self._first.count

    @property
    def largest(self) -> int:
        """As `Batches`."""
        return self._first.largest


@contextmanager
def of(name: str) -> Iterator[None]:
    """Say of which concept an error is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name!r:.60}: {error}") from None


@dataclass
class SharedFit(Fit):
    """One pass for several concepts.

    Attributes:
        each: Name -> the fit of that concept, which has no statistics of its own.
        groups: Names of concepts that share a covariance, as their labels leave out the same tokens.
    """

    each: dict[str, Fit] = field(default_factory=dict)
    groups: list[list[str]] = field(default_factory=list)

    def look(self) -> None:
        """Go through the labels of all concepts, once."""
        found: dict[str, Finding] = {}
        for name, fit in self.each.items():
            with of(name):
                found[name] = Finding(fit.batches, self.config.kind)
        marks = dict.fromkeys(self.each, 0)

        def gone_through() -> dict[str, Any]:
            for batch in self.batches:
                for name, labels in batch.every.items():  # type: ignore[attr-defined]
                    own = replace(batch, labels=labels)
                    with of(name):
                        found[name].add(own)
                    counted = grid(own, self.batches.ignore_index)
                    shape = str(tuple(counted.shape)).encode()
                    marks[name] = zlib.crc32(counted.numpy().tobytes(), zlib.crc32(shape, marks[name]))
            return {"found": {name: each.told() for name, each in found.items()}, "marks": marks}

        every = self.together.told(gone_through)
        shared: dict[str, list[str]] = {}
        for name, fit in self.each.items():
            with of(name):
                fit.survey = found[name].judged([told["found"][name] for told in every])
            shared.setdefault(str([told["marks"][name] for told in every]), []).append(name)
        self.groups = list(shared.values())
        self.survey = next(iter(self.each.values())).survey

    def _need(self, seen: Passed, rows: int) -> Need:
        small = self.method.fitter(1, 1, **self._options_for(seen.dtype))
        merging = self.together.over is not None
        widths = [sum(self.each[name].survey.width for name in names) for names in self.groups]
        first, *rest = (need(small, seen, width, rows, merging=merging) for width in widths)
        return sum(rest, start=first)

    def _update(self, kept: Any, site: Site, x: Tensor, labels: Tensor, counted: Tensor, batch: Batch) -> None:
        for number, names in enumerate(self.groups):
            self._update_group(kept, (site, number), names, x, batch)

    def _update_group(self, kept: Any, key: Any, names: Sequence[str], x: Tensor, batch: Any) -> None:
        read, mask = {}, None
        for name in names:
            own = replace(batch, labels=batch.every[name])
            _, labels, counted = align(x, own, key[0], self.batches.ignore_index)
            if mask is not None and not torch.equal(mask, counted):
                raise InputError(f"{name!r} and {names[0]!r} leave out other rows at {key[0]}: fit each by itself")
            kind, mask = self.config.kind, counted
            read[name] = read_labels(labels, tuple(x.shape[:-1]), name=name, kind=kind, mask=counted)
        if key not in kept:
            kept.add(key, self._fitter(names, x))
        assert mask is not None
        with kept.at(key) as fitter:
            fitter.update(x, read, mask=None if bool(mask.all()) else mask)

    def _fitter(self, names: Sequence[str], x: Tensor) -> ConceptsFitter:
        options = self._options_for(x.dtype)
        kinds: Any = {name: options["kind"] for name in names if "kind" in options}
        options.pop("kind", None)
        widths = {name: self.each[name].survey.width for name in names}
        return ConceptsFitter(x.shape[-1], widths, method=self.method.name, kinds=kinds, device=x.device, **options)

    def _done(self, found: Mapping[Site, Any]) -> None:
        """Nothing is written: there is no checkpoint."""

    def _solved(self, kept: Statistics, site: Site) -> dict[str, Any]:
        found = {}
        for number, names in enumerate(self.groups):
            fitter = self.together.reduced(kept.pop((site, number)))  # type: ignore[arg-type]
            found |= {name: laid_out(fitter.erasers[name]) for name in names}
        return {name: found[name] for name in self.each}

    @cached_property
    def _mark(self) -> str:
        return fingerprint(self.model)

    def scrubbers(self, *, measure: bool) -> dict[str, Scrubber]:
        """Fit all, and measure what is left by each, in a pass of its own."""
        with at_rest(self.model):
            self.checkpoint = ScrubCheckpoint(None, {}, self.method)
            self.parallel()
            return {name: self._scrubber(name, fit, measure=measure) for name, fit in self.each.items()}

    def _scrubber(self, name: str, fit: Fit, *, measure: bool) -> Scrubber:
        fit.calls, fit.mark = self.calls, self._mark
        fit.erasers = {site: found[name] for site, found in self.erasers.items()}
        return fit.scrubber(fit.settings(), fit.left() if measure else None)


def shared_fit(
    rows: Method, model: nn.Module, data: Any, concepts: Any, config: ScrubConfig, room: Mapping[str, Any]
) -> SharedFit:
    """A fit of several concepts that has looked at their labels and at the sites, and is planned.

    Raises:
        InputError: If concepts have no names, in sequential order, or where a scrubber is on the model.
    """
    named = _named(concepts)
    if config.order != "parallel":
        raise InputError(f"concepts={shown([*named])}: {_SEQUENTIAL}")
    if on := next(fitted_on(model), None):
        raise InputError(f"{on!r} is on the model, and is not kept out of a fit of several concepts: take it off first")
    columns = {concept for concept in named.values() if isinstance(concept, str)}
    options = {"batch_size": config.batch_size, "ignore_index": config.ignore_index}
    batches = {}
    for name, concept in named.items():
        with of(name):
            batches[name] = Batches(data, concept, beside=columns - {str(concept)}, **options)
    given = {"model": model, "method": rows, "config": config, **room}
    each = {name: Fit(batches=b, **given) for name, b in batches.items()}
    fit = SharedFit(batches=Lockstep(batches), each=each, **given)  # type: ignore[arg-type]
    next(iter(fit.batches))  # so that what is wrong with the data of a concept is said of it
    found = next(iter(each.values())).places.find(config.sites)
    with at_rest(model):
        fit.prepare(found)
        _ = fit.plan
    return fit


def _named(concepts: Any) -> dict[str, Any]:
    """Concepts by name; names alone are those of columns.

    Raises:
        InputError: If there is none, or one has no name, or two have the same.
    """
    if isinstance(concepts, Mapping):
        found = dict(concepts)
    elif isinstance(concepts, list | tuple) and all(isinstance(name, str) for name in concepts):
        if len({*concepts}) < len(concepts):
            raise InputError(f"concepts={shown(concepts)} names one twice: name each once")
        found = {name: name for name in concepts}
    else:
        raise InputError(
            f"concepts is {shown(concepts)}: write {{'name': labels, ...}}, or a list of names of columns of data"
        )
    checked_widths(dict.fromkeys(found, 1))
    return found
