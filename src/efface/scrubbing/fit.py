"""One fit of a scrub: statistics of hidden states at each site, gathered in order, and an eraser from each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import EffaceWarning, InputError
from efface._progress import progress
from efface.core.collective import same_in_all
from efface.core.edits import started
from efface.core.fingerprint import fingerprint
from efface.core.hooks import StateEdit
from efface.core.method import Method
from efface.core.provenance import called, provenance
from efface.core.row_labels import read_labels
from efface.core.site import Site
from efface.erasers.base import eraser_dtype
from efface.scrubbing.batches import Batch, Batches, Survey, survey
from efface.scrubbing.carried_activations import Carried, Store
from efface.scrubbing.checkpoint import ScrubCheckpoint
from efface.scrubbing.companions import Remembered, fitted_on
from efface.scrubbing.config import ScrubConfig
from efface.scrubbing.examples import small_inputs
from efface.scrubbing.forward import Passed, align, check_states, execution_order, passed, run_to, taking
from efface.scrubbing.measuring import measure_left
from efface.scrubbing.planning import Beyond, Need, Plan, check_disk, need, planned
from efface.scrubbing.scrubber import Scrubber
from efface.scrubbing.sites import SiteFinder
from efface.scrubbing.statistics import Statistics
from efface.scrubbing.together import Together


def laid_out(eraser: Any) -> Any:
    """The eraser, laid out in memory as when read from a file: a product may round otherwise in another layout."""
    return replace(eraser, **{name: x.contiguous() for name, x in eraser.tensors().items()})


_BY_COLUMNS = ("leace", "orth")
"""Methods for which several concepts are the columns of one."""


@dataclass
class Fit:
    """One call of `scrub`."""

    model: nn.Module
    batches: Batches
    method: Method
    config: ScrubConfig
    scratch: str | None
    together: Together
    memory: int | None = None
    beyond: Beyond = "passes"
    mark: str | None = None
    seen: dict[Site, Passed] = field(default_factory=dict)
    calls: dict[Site, int] = field(default_factory=dict)
    erasers: dict[Site, Any] = field(default_factory=dict)
    companions: dict[str, Remembered | None] = field(default_factory=dict)
    survey: Survey = field(init=False)
    checkpoint: ScrubCheckpoint = field(init=False)

    # ------------------------------------------------------------------------------------------- before

    @cached_property
    def places(self) -> SiteFinder:
        """What addresses stand for in this model, with these data."""
        return SiteFinder(self.model, self.config.table, partial(small_inputs, self.model, self.batches))

    def look(self) -> None:
        """Go through the labels, without the model."""
        self.survey = survey(self.batches, self.config.kind, self.together)

    def prepare(self, found: list[Site]) -> None:
        """Look at the labels, and at the order in which the model comes by the sites."""
        self.look()
        self.together.check_passes(self.model, self.batches.count)
        self.companions = self._find_companions(found)
        first = next(iter(self.batches))
        self.seen, self._more_rows = passed(self.model, found, first), self.batches.largest / max(first.rows, 1)
        self.calls = {site: each.calls for site, each in self.seen.items()}
        repeated = [str(site) for site, calls in self.calls.items() if calls > 1]
        if repeated:
            warnings.warn(
                f"{', '.join(repeated)} run several times in a forward pass: one eraser is fitted on all calls "
                "together, and what it does to the first changes what the later ones see",
                EffaceWarning,
                stacklevel=4,
            )

    def _find_companions(self, found: list[Site]) -> dict[str, Remembered | None]:
        """Content hash -> labels, of the scrubbers on the model; a warning where a concept cannot be kept out."""
        order = {path: i for i, (path, _) in enumerate(self.model.named_modules())}
        first = min(order[site.path] for site in found)
        companions: dict[str, Remembered | None] = {}
        for other in fitted_on(self.model):
            labels = other.labels if self.method.name in _BY_COLUMNS else None
            labels = labels if labels is not None and labels.suits(self.batches) else None
            companions[other.digest] = labels
            if labels is not None or all(order.get(site.path, -1) < first for site in other.sites):
                continue
            warnings.warn(
                f"{other!r} is on the model, and cannot be kept whole, as it was fitted on other data, loaded from a "
                f"file, or {self.method.name} takes no columns: its concept comes back in part behind the first site "
                "of this one. Fit both at once, scrub(model, data, efface.join_concepts(a, b))",
                EffaceWarning,
                stacklevel=6,
            )
        return companions

    @property
    def _remembered(self) -> list[Remembered]:
        return [labels for labels in self.companions.values() if labels is not None]

    def settings(self) -> dict[str, Any]:
        """What must be the same for a fit to go on from a checkpoint; plain data."""
        return {
            "method": self.method.name,
            "options": self._options_set(),
            "order": self.config.order,
            "kind": self.config.kind,
            "sites": [str(site) for site in self.calls],
            "fingerprint": self.mark or fingerprint(self.model),
            "dtypes": sorted({str(parameter.dtype) for parameter in self.model.parameters()}),
            "data": self.together.data(self.batches.fingerprint),
            "beside": [*self.companions],
            "ignore_index": self.config.ignore_index,
            "labels": {**asdict(self.survey), "classes": list(self.survey.classes)},
        }

    def _options_set(self) -> dict[str, Any]:
        """Options of the fitters that are not at their defaults, as plain data."""
        defaults = {option.name: option.default for option in type(self.config).options()}
        changed = {k: v for k, v in self.config.fitter_options().items() if v != defaults[k]}
        return {k: v if isinstance(v, bool | int | float | str | None) else str(v) for k, v in changed.items()}

    def scrubber(self, settings: Mapping[str, Any], left: Mapping[Site, float] | None) -> Scrubber:
        """The scrubber of the erasers that there are, with what is left by them at each site."""
        call = called("efface.scrub", {"method": self.method.name, **self.config.to_dict()})
        # Of a model and of batches the checksum of a fit is known, which is no SHA-256.
        known = {"model": settings["fingerprint"].partition(";")[0], "batches": settings["data"]}
        found = Scrubber(
            self.erasers,
            settings["fingerprint"],
            beside=tuple(settings["beside"]),
            method=self.method.name,
            config=self.config,
            report=self.survey,
            left=left,
            provenance={**provenance(subject=self.model, call=call), **known},
        )
        return found.remembering(Remembered.of(self.batches, self.config.kind, self.survey))

    def left(self) -> dict[Site, float]:
        """What is left of the concept with all erasers on, in one more pass."""
        width, kind = self.survey.width, self.config.kind
        return measure_left(self.model, self.batches, self.erasers, self.calls, width, kind, self.together)

    @cached_property
    def plan(self) -> Plan:
        """How statistics are kept.

        Raises:
            InputError: If they are not to be had within the budget, or processes have other budgets.
        """
        # The same in all processes: the sites of a pass are solved together.
        own = {"memory": self.memory, "beyond": self.beyond, "rows": self._more_rows}
        about = self.together.told(lambda: own)
        for name in ("memory", "beyond"):
            same_in_all(about, name, "write the same in all processes")
        more = max(each["rows"] for each in about)
        needs = {site: self._need(seen, round(seen.rows * more)) for site, seen in self.seen.items()}
        one_by_one = self.config.order == "sequential"
        found = planned(needs, memory=self.memory, beyond=self.beyond, one_by_one=one_by_one)
        check_disk(found.disk, self.scratch)
        return found

    def _need(self, seen: Passed, rows: int) -> Need:
        small = self.method.fitter(1, 1, **self._options_for(seen.dtype))
        return need(small, seen, self._width, rows, merging=self.together.over is not None)

    # ------------------------------------------------------------------------------------------ fitting

    def parallel(self) -> None:
        """All sites on the plain model, in as many passes over the data as statistics are planned in."""
        self.erasers = self.checkpoint.load_erasers(self.together.least(self.checkpoint.done))
        groups = [left for sites in self.plan.passes if (left := [s for s in sites if s not in self.erasers])]
        with progress("scrubbing", self.n_batches * len(groups), unit="batches") as bar:
            for sites in groups:
                with Statistics(self.scratch, on_disk=self.plan.on_disk) as kept:
                    self._gather(kept, sites, bar)
                    found = {site: self._solved(kept, site) for site in sites}
                self.erasers |= found
                self._done(found)

    def _gather(self, kept: Statistics, sites: Sequence[Site], bar: Any) -> None:
        """The statistics of some sites, in one pass on the plain model."""
        start = self.checkpoint.load_fitters(sites, kept)
        for batch in self.batches:
            if batch.number >= start:
                self._take(batch, kept, sites, {}, partial(run_to, self.model))
                self.checkpoint.save_sometimes(kept, batch.number + 1)
            bar.update(1)

    def _done(self, found: Mapping[Site, Any]) -> None:
        self.checkpoint.save_erasers(found)

    def _solved(self, kept: Statistics, site: Site) -> Any:
        return laid_out(self.together.reduced(kept.pop(site)).eraser)

    def sequential(self) -> None:
        """Site after site, with the erasers of the earlier ones on."""
        # One process may have been stopped before it wrote an eraser that another has: they go on at the same site.
        self.erasers = self.checkpoint.load_erasers(self.together.least(self.checkpoint.done))
        if self.config.activations == "recompute":
            self._recompute()
            return
        store = Store(self.config.activations, self.scratch)
        try:
            self._carry(store)
        finally:
            store.close()

    def _recompute(self) -> None:
        with progress("scrubbing", self.n_batches * len(self.calls), unit="batches") as bar:
            bar.update(self.n_batches * len(self.erasers))
            for site in list(self.calls)[len(self.erasers) :]:
                self._fit_site(site, partial(run_to, self.model), bar)

    def _carry(self, store: Store) -> None:
        first = next(iter(self.batches))
        carried = Carried(self.model, first, store, self.places.find("residual"))
        targets = self._targets(carried, first)
        total = self.n_batches * (len(self.calls) + max(targets.values(), default=0))
        with progress("scrubbing", total, unit="batches") as bar:
            for site, target in targets.items():
                known = {s: eraser for s, eraser in self.erasers.items() if targets[s] <= target}
                while carried.done < target:
                    carried.advance(self.batches, {s: started(e) for s, e in known.items()}, bar)
                if site not in self.erasers:
                    self._fit_site(site, carried.run_to, bar)

    def _targets(self, carried: Carried, first: Any) -> dict[Site, int]:
        """For each site, how many blocks are finished when the forward pass comes by."""
        blocks = [Site(path) for path in carried.blocks]
        own = [block for block in blocks if block not in self.calls]
        order = list(execution_order(self.model, [*self.calls, *own], first))
        at = {site: i for i, site in enumerate(order)}
        targets = {}
        for site in self.calls:
            inside = carried.block_of(site)
            targets[site] = inside if inside is not None else sum(at[block] < at[site] for block in blocks)
        return targets

    def _fit_site(self, site: Site, run: Any, bar: Any) -> None:
        edits = {s: started(eraser) for s, eraser in self.erasers.items()}
        with Statistics() as kept:
            start = self.checkpoint.load_fitters([site], kept)
            for batch in self.batches:
                if batch.number >= start:
                    self._take(batch, kept, [site], edits, run)
                    self.checkpoint.save_sometimes(kept, batch.number + 1)
                bar.update(1)
            self.erasers[site] = self._solved(kept, site)
        self.checkpoint.save_erasers({site: self.erasers[site]})

    def _take(
        self, batch: Any, kept: Statistics, wanted: Sequence[Site], edits: dict[Site, StateEdit], run: Any
    ) -> None:
        """One forward pass that updates the fitters of the wanted sites, with the edits of others on."""
        refused: list[tuple[Site, Tensor, Tensor]] = []

        def take(site: Site) -> StateEdit:
            def update(x: Tensor, labels: Tensor, counted: Tensor) -> None:
                try:
                    self._update(kept, site, x, labels, counted, batch)
                except InputError:
                    refused.append((site, x, counted))
                    raise

            stop = site == wanted[-1]
            return taking(batch, site, update, self.batches.ignore_index, calls=self.calls[site], stop=stop)

        try:
            run(batch, edits | {site: take(site) for site in wanted})
        except InputError:
            for site, x, counted in refused:  # here nothing else is on the model any more
                check_states(x, counted, self.model, batch, site, edits)
            raise

    def _update(self, kept: Statistics, site: Site, x: Tensor, labels: Tensor, counted: Tensor, batch: Batch) -> None:
        if site not in kept:
            options = self._options_for(x.dtype)
            kept.add(site, self.method.fitter(x.shape[-1], self._width, device=x.device, **options))
        mask = None if bool(counted.all()) else counted
        # The survey has judged the labels: here they are only read.
        z = read_labels(labels, tuple(x.shape[:-1]), name="concept", kind=self.config.kind, mask=mask)
        if self._remembered:
            theirs = [each.columns(batch, x, partial(self._aligned, site)) for each in self._remembered]
            z = torch.cat([z.columns(self.survey.width).double(), *theirs], -1)
        with kept.at(site) as fitter:
            fitter.update(x, z, mask=mask)

    @property
    def _width(self) -> int:
        """Columns of the concept, and of those that are kept out beside it."""
        return self.survey.width + sum(each.survey.width for each in self._remembered)

    def _aligned(self, site: Site, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return align(x, batch, site, self.batches.ignore_index)

    def _options_for(self, dtype: torch.dtype) -> dict[str, Any]:
        given = {"dtype": eraser_dtype(dtype)} | self.config.fitter_options()
        return given if self.config.kind == "auto" or self._remembered else given | {"kind": self.config.kind}

    @property
    def n_batches(self) -> int:
        """Batches in one pass over the data."""
        return self.batches.count
