"""Fitting an eraser for each site, one after the other or all at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from efface._errors import EffaceWarning, InputError
from efface._progress import progress
from efface.core.fingerprint import fingerprint
from efface.core.labels import Kind, read_labels
from efface.core.method import Method, get_method, methods
from efface.core.site import Site
from efface.erasers.base import eraser_dtype
from efface.scrubbing.batches import Batches, Survey, survey
from efface.scrubbing.carry import Activations, Carried, Store
from efface.scrubbing.checkpoint import ScrubCheckpoint
from efface.scrubbing.gather import at_rest, check_states, execution_order, run_to, taking
from efface.scrubbing.hooks import Edit
from efface.scrubbing.labels import IGNORE
from efface.scrubbing.scrubber import Scrubber, edit_of
from efface.scrubbing.sites import SitesLike, find_sites

Order = Literal["sequential", "parallel"]
_CHOICES = {"order": ("sequential", "parallel"), "activations": ("recompute", "memory", "disk")}


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
        options: Further arguments of the method's fitter, such as `affine=False` or `shrinkage=False`.

    Returns:
        A `Scrubber`: `with scrubber: model(...)` erases.

    Raises:
        InputError: If a site matches nothing, labels do not fit the tokens, the concept is absent from the data, or
            hidden states are not finite (the text says where they first were not).

    Guarantees, for LEACE in sequential order, on the data of the fit: equal class means at every site at once, hence
    no linear predictor at any one of them beats a constant.

    Does not guarantee: that a non-linear reader, or one that sees several tokens or sites together, finds nothing;
    nor anything of sites that were not named.

    Source: concept scrubbing, Algorithm 1 of arXiv:2306.03819.
    """
    fit = _Fit(
        model=model,
        batches=Batches(data, concept, batch_size=batch_size, ignore_index=ignore_index),
        method=_method(method),
        options=options,
        kind=kind,
        activations=_choice("activations", activations),
        table=table,
        scratch=None if scratch is None else os.fspath(scratch),
    )
    found = find_sites(model, sites, table=table)
    parallel = _choice("order", order) == "parallel"
    with at_rest(model):
        fit.prepare(found)
        settings = fit.settings(order)
        fit.checkpoint = ScrubCheckpoint(checkpoint, settings, fit.method)
        fit.parallel() if parallel else fit.sequential()
        fit.checkpoint.clear()
    facts = {k: settings[k] for k in ("method", "order", "fingerprint")} | {"options": _plain(options)}
    return Scrubber(fit.erasers, model=model, facts=facts | {"labels": settings["labels"]})


def _method(name: str) -> Method:
    method = get_method(name, "rows")
    if method.labels_at_apply:
        usable = [m.name for m in methods("rows") if not m.labels_at_apply]
        raise InputError(
            f"method {name!r} needs the labels when it is applied, which a model does not have: choose one of "
            f"{', '.join(usable)}"
        )
    return method


def _choice(name: str, value: str) -> Any:
    if value not in _CHOICES[name]:
        raise InputError(f"{name}={value!r}: choose one of {', '.join(map(repr, _CHOICES[name]))}")
    return value


def _eraser_of(fitter: Any) -> Any:
    """Its eraser, laid out in memory as when read from a file: a product may round otherwise in another layout."""
    eraser = fitter.eraser
    return replace(eraser, **{name: x.contiguous() for name, x in eraser.tensors().items()})


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as plain data."""
    return {k: v if isinstance(v, (bool, int, float, str, type(None))) else str(v) for k, v in options.items()}


@dataclass
class _Fit:
    """One call of `scrub`."""

    model: nn.Module
    batches: Batches
    method: Method
    options: dict[str, Any]
    kind: Kind
    activations: Activations
    table: Mapping[str, Any] | None
    scratch: str | None
    calls: dict[Site, int] = field(default_factory=dict)
    erasers: dict[Site, Any] = field(default_factory=dict)
    survey: Survey = field(init=False)
    checkpoint: ScrubCheckpoint = field(init=False)

    # ------------------------------------------------------------------------------------------- before

    def prepare(self, found: list[Site]) -> None:
        """Look at the labels, and at the order in which the model comes by the sites."""
        self.survey = survey(self.batches, self.kind)
        self.calls = execution_order(self.model, found, next(iter(self.batches)))
        repeated = [str(site) for site, calls in self.calls.items() if calls > 1]
        if repeated:
            warnings.warn(
                f"{', '.join(repeated)} run several times in a forward pass: one eraser is fitted on all calls "
                "together, and what it does to the first changes what the later ones see",
                EffaceWarning,
                stacklevel=3,
            )

    def settings(self, order: str) -> dict[str, Any]:
        """What must be the same for a fit to go on from a checkpoint; plain data."""
        return {
            "method": self.method.name,
            "options": _plain(self.options),
            "order": order,
            "kind": self.kind,
            "sites": [str(site) for site in self.calls],
            "fingerprint": fingerprint(self.model),
            "dtypes": sorted({str(parameter.dtype) for parameter in self.model.parameters()}),
            "data": self.batches.fingerprint,
            "ignore_index": self.batches.ignore_index,
            "labels": asdict(self.survey),
        }

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
        self.erasers = {site: _eraser_of(fitters[site]) for site in sites}

    def sequential(self) -> None:
        """Site after site, with the erasers of the earlier ones on."""
        self.erasers = self.checkpoint.load_erasers()
        if self.activations == "recompute":
            self._recompute()
            return
        store = Store(self.activations, self.scratch)
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
        carried = Carried(self.model, first, store, self.table)
        targets = self._targets(carried, first)
        total = self.n_batches * (len(self.calls) + max(targets.values(), default=0))
        with progress("scrubbing", total, unit="batches") as bar:
            for site, target in targets.items():
                known = {s: eraser for s, eraser in self.erasers.items() if targets[s] <= target}
                while carried.done < target:
                    carried.advance(self.batches, {s: edit_of(e) for s, e in known.items()}, bar)
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
        edits = {s: edit_of(eraser) for s, eraser in self.erasers.items()}
        for batch in self.batches:
            if batch.number >= start:
                self._take(batch, fitters, [site], edits, run)
                self.checkpoint.save_sometimes(fitters, batch.number + 1)
            bar.update(1)
        self.erasers[site] = _eraser_of(fitters[site])
        self.checkpoint.save_eraser(site, self.erasers[site])

    def _take(
        self, batch: Any, fitters: dict[Site, Any], wanted: list[Site], edits: dict[Site, Edit], run: Any
    ) -> None:
        """One forward pass that updates the fitters of the wanted sites, with the edits of others on."""
        refused: list[tuple[Site, Tensor, Tensor]] = []

        def take(site: Site) -> Edit:
            def update(x: Tensor, labels: Tensor, counted: Tensor) -> None:
                try:
                    self._update(fitters, site, x, labels, counted)
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

    def _update(self, fitters: dict[Site, Any], site: Site, x: Tensor, labels: Tensor, counted: Tensor) -> None:
        if site not in fitters:
            options = self._fitter_options(x)
            fitters[site] = self.method.fitter(x.shape[-1], self.survey.width, device=x.device, **options)
        mask = None if bool(counted.all()) else counted
        # The survey has judged the labels: here they are only read.
        z = read_labels(labels, tuple(x.shape[:-1]), name="concept", kind=self.kind, mask=mask)
        fitters[site].update(x, z, mask=mask)

    def _fitter_options(self, x: Tensor) -> dict[str, Any]:
        given = {"dtype": eraser_dtype(x.dtype)} | self.options
        return given if self.kind == "auto" else given | {"kind": self.kind}

    @property
    def n_batches(self) -> int:
        """Batches in one pass over the data."""
        return self.survey.batches
