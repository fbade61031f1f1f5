"""`Scrubber`: erasers for the sites of a model, as one value; put on by hooks, or folded into the weights."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from efface._errors import EffaceWarning, FormatError, InputError
from efface._io import atomic_dir
from efface._text import shown
from efface._validate import check_type
from efface.core.codec import TENSOR, TYPE
from efface.core.config import Config
from efface.core.doors import check_call, is_applied
from efface.core.edits import Edit, OnStates, check_base, check_sites, located_site
from efface.core.erasure import Erasure
from efface.core.installer import Handle
from efface.core.saved_types import saved_type
from efface.core.site import Site
from efface.core.subjects import unwrapped
from efface.erasers.base import Eraser
from efface.scrubbing.adapted import merged
from efface.scrubbing.batches import Survey
from efface.scrubbing.collecting import SiteFeatures, collect
from efface.scrubbing.companions import Remembered, fitted_on
from efface.scrubbing.config import legacy_config
from efface.scrubbing.controls import RandomSubspace
from efface.scrubbing.fold import Folded, check_apart, fold
from efface.scrubbing.fold_check import check_fold, check_loaded


@dataclass(frozen=True, eq=False, repr=False)
class Scrubber(Erasure):
    """Erasers for sites of a model.

    `with scrubber.on(model):` erases in every forward pass of a model, `generate()` and training included;
    `scrubber.folded(model)` does so by the weights. Several concepts are erased at once, by `join_concepts`, or one
    after the other: a scrubber that is fitted with another one on, on the same data, keeps both concepts out, and is
    put on inside it. Scrubbers that know nothing of each other are refused.

    Attributes:
        erasers: Site -> an eraser of rows, in the order of a forward pass; or any function from hidden states
            `(..., d)` to hidden states, which cannot be saved.
        fingerprint: Of the model of the fit, so that one whose weights have changed is refused; None fits any.
        beside: Content hash of each scrubber that was on the model in the fit.
        config: Options of the fit, those of the method of rows among them.
        report: What the labels of the fit were.
        left: Site -> the largest correlation of a feature with the concept that was left there, measured on the data of
            the fit with all the erasers on; of a module that runs several times, at its worst call.

    Does not guarantee: what `scrub` does not. In particular an edit applies to what the modules at its sites see: a
    model that is called around them (another attention path, a fused kernel) is not scrubbed.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> with Scrubber.at({"0": torch.zeros_like}).on(model):
    ...     bool((model(torch.ones(1, 2)) == model[1].bias).all())
    True
    """

    erasers: Mapping[Site, Any]
    fingerprint: str | None = None
    beside: tuple[str, ...] = field(default=(), kw_only=True)
    config: Config | None = field(default=None, kw_only=True)
    report: Survey | None = field(default=None, kw_only=True)
    left: Mapping[Site, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_type(self.erasers, Mapping, "erasers", "an eraser by site")
        for site, eraser in self.erasers.items():
            if not isinstance(site, Site):
                raise InputError(f"{shown(site)} is no Site: write Scrubber.at({{{shown(site)}: ...}})")
            if not is_applied(eraser):
                raise InputError(f"the eraser of {site} is {shown(eraser)}, expected a callable of hidden states")
        object.__setattr__(self, "erasers", dict(self.erasers))

    @classmethod
    def at(cls, erasers: Mapping[str, Any]) -> Self:
        """A scrubber from erasers by the addresses of their sites; it suits any model that has them."""
        check_call(Scrubber.at, locals())
        return cls({Site.parse(address): eraser for address, eraser in erasers.items()})

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in the order of a forward pass."""
        return tuple(self.erasers)

    @property
    def rank(self) -> dict[Site, int]:
        """How many dimensions each eraser takes out."""
        return {site: _rank(eraser) for site, eraser in self.erasers.items()}

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The erasers, at their sites."""
        return (OnStates(self.erasers, self.fingerprint),)

    def states(
        self, model: nn.Module, data: Any, concept: Any, *, on: bool = True, max_rows: int = 10_000, seed: int = 0
    ) -> SiteFeatures:
        """Hidden states at its sites, after the edits or, if it is not to be on, as the model has them.

        Args:
            model: The model.
            data: As for `scrub`; batches are those of the fit.
            concept: As for `scrub`.
            on: Whether the scrubber is on.
            max_rows: Tokens to keep, drawn at random if there are more; the same ones on and off.
            seed: Of the draw.
        """
        check_call(Scrubber.states, locals())
        named = {"batch_size", "ignore_index", "table"} & set(() if self.config is None else vars(self.config))
        options = {name: getattr(self.config, name) for name in named}
        scrubber = self if on else None
        return collect(
            model, data, concept, sites=list(self.sites), scrubber=scrubber, max_rows=max_rows, seed=seed, **options
        )

    @property
    def marks(self) -> dict[Site, str]:
        """Content hash of each fitted eraser, by which it is known where it is on already."""
        return {site: eraser.digest for site, eraser in self.erasers.items() if isinstance(eraser, Eraser)}

    def summary(self) -> list[dict[str, Any]]:
        """A row for each site, as plain data.

        Keys: `site`; `rank`; `residual`, the largest correlation of a feature with the concept left, measured with all
        the erasers on (None where that was not measured, as of some of the sites); `edit`, the relative size of the
        edit in the fit; `n`, its tokens.
        """
        rows = []
        for site, eraser in self.erasers.items():
            report = getattr(eraser, "report", None)
            found = {key: getattr(report, key, None) for key in ("edit", "n")}
            residual = None if self.left is None else self.left.get(site)
            rows.append({"site": str(site), "rank": _rank(eraser), "residual": residual, **found})
        return rows

    def __repr__(self) -> str:
        some = [*map(str, self.sites[:3]), *["..."] * (len(self.sites) > 3)]
        return f"Scrubber({self.method or 'erasers'}, {len(self.erasers)} sites: {', '.join(some)})"

    def check(self) -> None:
        """Refuse erasers whose tensors do not go together."""
        for eraser in self.erasers.values():
            if isinstance(eraser, Erasure):
                eraser.check()

    # ---------------------------------------------------------------------------- on, folded, parts, controls

    def on(self, subject: Any, *, check: bool = True) -> Handle:
        """Erase in every forward pass: `with scrubber.on(model):`, or until `undo()` of what it returns.

        Args:
            subject: The model.
            check: Refuse a model whose weights are not those of the fit; False for one that is being trained.

        Raises:
            InputError: If the model lacks a site, is not the one of the fit, or has one of the erasers on already.
        """
        check_apart(subject, self.marks, weights_only=True)
        if self.fingerprint is not None and self.method != "random" and isinstance(subject, nn.Module):
            self._check_beside([other for other in fitted_on(subject) if other != self], check=check)
        return super().on(subject, check=check)

    def _check_beside(self, below: list[Scrubber], *, check: bool) -> None:
        """Refuse to be put on where it, or a scrubber that is on already, gets other hidden states than in its fit."""
        for other in below:
            of_one_fit = bool(self.provenance) and other.provenance == self.provenance
            if of_one_fit or other.digest in self.beside:
                continue
            text = (
                f"{other!r} is on, and {self!r} was not fitted with it on: each gets other hidden states than those of "
                "its fit, so both concepts come back in part. Fit both at once, scrub(model, data, "
                "efface.join_concepts(a, b)), or the second on the same data with the first one on"
            )
            if check:
                raise InputError(f"{text}; on(model, check=False) puts it on as it is")
            warnings.warn(text, EffaceWarning, stacklevel=4)
        if missing := len({*self.beside} - {other.digest for other in below}):
            warnings.warn(
                f"{self!r} was fitted with {missing} more scrubbers on, which are not: its concept is gone with them "
                "on, and they come first",
                EffaceWarning,
                stacklevel=4,
            )

    labels: ClassVar[Remembered | None] = None
    """The labels of the fit, for a fit of another concept beside it; only while it is in memory."""

    def remembering(self, labels: Remembered | None) -> Self:
        """The scrubber itself, with the labels of its fit."""
        check_call(Scrubber.remembering, locals())
        object.__setattr__(self, "labels", labels)
        return self

    def folded(self, model: nn.Module, *, inputs: Mapping[str, Any] | None = None) -> Folded:
        """The same as an edit of weights, of the linear layers that follow the sites: exact, and free to run.

        Works for sites whose hidden states are read by linear layers alone, as after the norms of pre-norm models.
        A bias is added where a layer has none, and a head tied to the embedding gets weights of its own. Inside
        `with scrubber.folded(model).on(model):`, `model.save_pretrained` saves the scrubbed model, or refuses where the
        class could not load all of it. That the fold gives what hooks give is tried on the small inputs.

        Args:
            model: The model of the fit. It is left as it is.
            inputs: Keyword arguments for one small forward pass, in which is seen who reads what; None makes token
                ids or pixels.

        Returns:
            An erasure for this model; its `notes` say what saving needs.

        Raises:
            InputError: If a site cannot be folded (the text says who else reads it), the scrubber is on, or the folded
                model gives something else than the hooked one.
        """
        check_call(Scrubber.folded, locals())
        model = unwrapped(model)
        check_apart(model, self.marks)
        erasers = {located_site(model, site): eraser for site, eraser in self.erasers.items()}
        check_sites(model, erasers)
        check_base(model, self.fingerprint, erasers)
        delta, notes = fold(model, erasers, inputs)
        check_fold(model, erasers, delta, inputs)
        return Folded(delta, self.marks, notes, method=self.method, concepts=self.concepts, config=self.config)

    def export(
        self, path: str | os.PathLike[str], model: nn.Module, *, inputs: Mapping[str, Any] | None = None
    ) -> None:
        """Save the scrubbed model by its own `save_pretrained`: it then needs no efface to stay scrubbed.

        Of a model with adapters (PEFT) the whole is saved, with those that are on merged into a copy of it.

        Args:
            path: Folder to write, atomically.
            model: The model of the fit, one of Hugging Face. It is left as it is.
            inputs: As for `folded`.

        Raises:
            InputError: If a site cannot be folded, or the model's class could not load the biases that the fold adds
                (then fit with `scrub(..., affine=False)`, whose erasers need none). What is saved is loaded again to
                see that it gives the same.
        """
        check_call(Scrubber.export, locals())
        folded = self.folded(model, inputs=inputs)
        if folded.unsaved:
            raise InputError(f"{self!r} cannot be exported: {folded.unsaved}")
        with folded.on(model), atomic_dir(path) as folder:
            whole: Any = merged(unwrapped(model))
            whole.save_pretrained(folder)
            check_loaded(whole, folder, inputs)

    def random_control(self, seed: int = 0) -> Scrubber:
        """The control: at each site a random subspace of the same rank about the same mean, new for every batch."""
        check_call(Scrubber.random_control, locals())
        controls = {
            site: RandomSubspace(_rank(eraser), getattr(eraser, "bias", None), seed=int(seed) * 100_003 + i)
            for i, (site, eraser) in enumerate(self.erasers.items())
        }
        return Scrubber(controls, self.fingerprint, method="random", concepts=self.concepts)

    def only(self, *sites: Site | str) -> Scrubber:
        """A scrubber of some of the sites. Fitted in sequence, an eraser fits only with all those before it on."""
        wanted = {site if isinstance(site, Site) else Site.parse(site) for site in sites}
        if unknown := wanted - set(self.erasers):
            given, known = (", ".join(map(str, sites)) for sites in (unknown, self.sites))
            raise InputError(f"no eraser for {given}: there are {known}")
        erasers = {s: e for s, e in self.erasers.items() if s in wanted}
        return dataclasses.replace(self, erasers=erasers, left=self.left if len(erasers) == len(self.erasers) else None)

    # -------------------------------------------------------------------------------------------- files

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A file of format 1: facts, and a list of erasers whose tensors are known by their place in it."""
        facts, erasers = plain["facts"], {}
        for i, entry in enumerate(plain["erasers"]):
            erasers[entry["site"]] = _upgraded_eraser(entry, tensors, i)
        found = {
            "erasers": erasers,
            "fingerprint": facts.get("fingerprint"),
            "method": facts.get("method", ""),
            "config": legacy_config(facts, sites=[entry["site"] for entry in plain["erasers"]]),
            "report": facts.get("labels"),
        }
        return found, tensors


def _upgraded_eraser(entry: Mapping[str, Any], tensors: Mapping[str, Tensor], i: int) -> dict[str, Any]:
    kind = saved_type(entry["type"])
    if not issubclass(kind, Erasure):
        raise FormatError(f"{entry['site']} holds a {entry['type']}, which is no eraser")
    own = {name.partition(".")[2]: x for name, x in tensors.items() if name.partition(".")[0] == str(i)}
    plain, _ = kind.upgraded({"report": entry["report"]}, own)
    return {k: {TENSOR: f"{i}.{k}"} if v == {TENSOR: k} else v for k, v in plain.items()} | {TYPE: entry["type"]}


def _rank(eraser: Any) -> int:
    if isinstance(eraser, RandomSubspace):
        return eraser.rank
    left = getattr(eraser, "proj_left", None)
    return int(left.shape[1]) if isinstance(left, Tensor) else 0
