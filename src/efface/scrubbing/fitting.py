"""Fitting an eraser for each site, one after the other or all at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import EffaceWarning, InputError
from efface._io import as_path
from efface._progress import progress
from efface.core.edits import started
from efface.core.fingerprint import fingerprint
from efface.core.hooks import StateEdit
from efface.core.labels import Kind
from efface.core.method import Method
from efface.core.provenance import called, provenance
from efface.core.row_labels import read_labels
from efface.core.site import Site
from efface.erasers.base import eraser_dtype
from efface.scrubbing.batches import Batch, Batches, Survey, survey
from efface.scrubbing.carried_activations import Carried, Store
from efface.scrubbing.checkpoint import ScrubCheckpoint
from efface.scrubbing.companions import Remembered, fitted_on
from efface.scrubbing.config import Activations, Order, ScrubConfig, config_for, rows_method
from efface.scrubbing.examples import small_inputs
from efface.scrubbing.forward import align, at_rest, bare, check_states, execution_order, run_to, taking
from efface.scrubbing.measuring import measure_left
from efface.scrubbing.scrubber import Scrubber
from efface.scrubbing.sites import SiteFinder, SitesLike
from efface.scrubbing.together import Together
from efface.scrubbing.token_labels import IGNORE


def scrub(
    model: nn.Module,
    data: Any,
    concept: Any,
    *,
    sites: SitesLike,
    method: str = "leace",
    order: Order = "sequential",
    activations: Activations = "recompute",
    batch_size: int = 8,
    ignore_index: int = IGNORE,
    kind: Kind = "auto",
    table: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    group: Any = None,
    **options: Any,
) -> Scrubber:
    """Fit an eraser of a concept for each site of a model; the model is left as it was.

    Args:
        model: Any PyTorch module; of Hugging Face models the roles of sites are known.
        data: What a tokenizer or image processor gives: a mapping of arrays `(n, ...)`, token ids `(n, length)` alone,
            or a list or DataLoader (not shuffled) of batches of such. `attention_mask` keeps padding out of the fit.
        concept: Labels: `(n, length)` one a token, `(n,)` one a sequence (which then holds for each of its tokens),
            rows of different lengths, the name of a column of `data`, or a function from a batch to its labels.
            Integers are classes; floats are quantities. Spans: see `labels_from_spans`.
        sites: Where to erase: `"norms"`, `"residual"`, `"mlp_out"`, `"attn_out"`, module paths, globs, regular
            expressions, `Site`s, or a list of these; see `find_sites`.
        method: A method of the registry whose erasers need no labels: `"leace"`, `"orth"`, `"mean-difference"`.
        order: `"sequential"` fits each site with the erasers of the earlier ones on, so that the concept is gone from
            all of them at once; `"parallel"` fits all on the plain model in one pass, and later sites then see other
            hidden states than those they were fitted on.
        activations: How a sequential fit gets from site to site.
            `"recompute"`: from the beginning for each site; memory does not depend on the number of tokens, and the
            cost is about half as many forward passes as there are sites.
            `"memory"` or `"disk"`: what each block gives is kept for every token (`n * length * width` numbers), and
            each block runs about once and a half for two sites a block. Not for models that pass more from block to
            block than blocks return; that is checked.
        batch_size: Sequences in a forward pass, where `data` is not in batches already.
        ignore_index: Label of tokens that are left out.
        kind: What labels are, if not what their dtype says.
        table: Role -> patterns, for a model whose sites of a role are not known or not right.
        checkpoint: Folder to go on from after an interruption, with the same result; deleted at the end.
        scratch: Under which folder to keep activations on disk; None takes the system's.
        group: Of torch.distributed: each of its processes calls this, with the same model and its own sequences, few or
            many, but at least one (whose labels may all be ignored), and gets the same scrubber, fitted on all. None
            is one process alone; `torch.distributed.group.WORLD` is all. Checkpoints lie in a folder a process.
        options: Further options of the method, such as `affine=False` or `shrinkage=False`, and `dtype`.

    Returns:
        A `Scrubber`: `with scrubber.on(model): model(...)` erases.

    Raises:
        InputError: If a site matches nothing, labels do not fit the tokens, the concept is absent from the data, or
            hidden states are not finite (the text says where they first were not).

    Guarantees, for LEACE in sequential order, on the data of the fit: equal class means at every site at once, hence
    no linear predictor at any one of them beats a constant.

    Does not guarantee: that a non-linear reader, or one that sees several tokens or sites together, finds nothing;
    nor anything of sites that were not named.

    Source: concept scrubbing, Algorithm 1 of arXiv:2306.03819.
    """
    rows = rows_method(method)
    config = config_for(rows).of(
        {
            "sites": sites,
            "order": order,
            "activations": activations,
            "batch_size": batch_size,
            "ignore_index": ignore_index,
            "kind": kind,
            "table": table,
            **options,
        },
        method=method,
    )
    return scrub_with(rows, model, data, concept, config, checkpoint=checkpoint, scratch=scratch, group=group)


def scrub_with(
    rows: Method,
    model: nn.Module,
    data: Any,
    labels: Any,
    config: ScrubConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    group: Any = None,
) -> Scrubber:
    """`scrub` by a method of rows, with its options as a value."""
    model = bare(model)
    fit = _Fit(
        model=model,
        batches=Batches(data, labels, batch_size=config.batch_size, ignore_index=config.ignore_index),
        method=rows,
        config=config,
        scratch=None if scratch is None else str(as_path(scratch, "scratch")),
        together=Together.of(group),
    )
    found = fit.places.find(config.sites)
    with at_rest(model):
        fit.prepare(found)
        settings = fit.settings()
        fit.checkpoint = ScrubCheckpoint(fit.together.folder(checkpoint), settings, fit.method)
        fit.parallel() if config.order == "parallel" else fit.sequential()
        left = measure_left(model, fit.batches, fit.erasers, fit.calls, fit.survey.width, config.kind, fit.together)
        fit.checkpoint.clear()
    found = Scrubber(
        fit.erasers,
        settings["fingerprint"],
        beside=tuple(settings["beside"]),
        method=rows.name,
        config=config,
        report=fit.survey,
        left=left,
        provenance=_provenance(model, settings, config),
    )
    return found.remembering(Remembered.of(fit.batches, config.kind, fit.survey))


def _provenance(model: nn.Module, settings: Mapping[str, Any], config: ScrubConfig) -> dict[str, Any]:
    """Where a scrubber comes from; of a model and of batches the checksum of a fit is known, which is no SHA-256."""
    found = provenance(subject=model, call=called("efface.scrub", {"method": settings["method"], **config.to_dict()}))
    return {**found, "model": settings["fingerprint"].partition(";")[0], "batches": settings["data"]}


def _eraser_of(fitter: Any) -> Any:
    """Its eraser, laid out in memory as when read from a file: a product may round otherwise in another layout."""
    eraser = fitter.eraser
    return replace(eraser, **{name: x.contiguous() for name, x in eraser.tensors().items()})


_BY_COLUMNS = ("leace", "orth")
"""Methods for which several concepts are the columns of one."""


@dataclass
class _Fit:
    """One call of `scrub`."""

    model: nn.Module
    batches: Batches
    method: Method
    config: ScrubConfig
    scratch: str | None
    together: Together
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

    def prepare(self, found: list[Site]) -> None:
        """Look at the labels, and at the order in which the model comes by the sites."""
        self.survey = survey(self.batches, self.config.kind, self.together)
        self.together.check_passes(self.model, self.batches.count)
        self.companions = self._find_companions(found)
        self.calls = execution_order(self.model, found, next(iter(self.batches)))
        repeated = [str(site) for site, calls in self.calls.items() if calls > 1]
        if repeated:
            warnings.warn(
                f"{', '.join(repeated)} run several times in a forward pass: one eraser is fitted on all calls "
                "together, and what it does to the first changes what the later ones see",
                EffaceWarning,
                stacklevel=3,
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
                stacklevel=5,
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
            "fingerprint": fingerprint(self.model),
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

    # ------------------------------------------------------------------------------------------ fitting

    def parallel(self) -> None:
        """All sites in one pass over the data."""
        sites = list(self.calls)
        fitters, start = self.checkpoint.load_fitters(sites)
        with progress("scrubbing", self.n_batches, done=start, unit="batches") as bar:
            for batch in self.batches:
                if batch.number >= start:
                    self._take(batch, fitters, sites, {}, partial(run_to, self.model))
                    self.checkpoint.save_sometimes(fitters, batch.number + 1)
                    bar.update(1)
        self.erasers = {site: _eraser_of(self.together.reduced(fitters[site])) for site in sites}

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
        fitters, start = self.checkpoint.load_fitters([site])
        edits = {s: started(eraser) for s, eraser in self.erasers.items()}
        for batch in self.batches:
            if batch.number >= start:
                self._take(batch, fitters, [site], edits, run)
                self.checkpoint.save_sometimes(fitters, batch.number + 1)
            bar.update(1)
        self.erasers[site] = _eraser_of(self.together.reduced(fitters[site]))
        self.checkpoint.save_eraser(site, self.erasers[site])

    def _take(
        self, batch: Any, fitters: dict[Site, Any], wanted: list[Site], edits: dict[Site, StateEdit], run: Any
    ) -> None:
        """One forward pass that updates the fitters of the wanted sites, with the edits of others on."""
        refused: list[tuple[Site, Tensor, Tensor]] = []

        def take(site: Site) -> StateEdit:
            def update(x: Tensor, labels: Tensor, counted: Tensor) -> None:
                try:
                    self._update(fitters, site, x, labels, counted, batch)
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

    def _update(
        self, fitters: dict[Site, Any], site: Site, x: Tensor, labels: Tensor, counted: Tensor, batch: Batch
    ) -> None:
        if site not in fitters:
            width = self.survey.width + sum(each.survey.width for each in self._remembered)
            fitters[site] = self.method.fitter(x.shape[-1], width, device=x.device, **self._fitter_options(x))
        mask = None if bool(counted.all()) else counted
        # The survey has judged the labels: here they are only read.
        z = read_labels(labels, tuple(x.shape[:-1]), name="concept", kind=self.config.kind, mask=mask)
        if self._remembered:
            theirs = [each.columns(batch, x, partial(self._aligned, site)) for each in self._remembered]
            z = torch.cat([z.columns(self.survey.width).double(), *theirs], -1)
        fitters[site].update(x, z, mask=mask)

    def _aligned(self, site: Site, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return align(x, batch, site, self.batches.ignore_index)

    def _fitter_options(self, x: Tensor) -> dict[str, Any]:
        given = {"dtype": eraser_dtype(x.dtype)} | self.config.fitter_options()
        return given if self.config.kind == "auto" or self._remembered else given | {"kind": self.config.kind}

    @property
    def n_batches(self) -> int:
        """Batches in one pass over the data."""
        return self.batches.count
