"""`Scrubber`: the erasers of a model's sites, put on and taken off, saved and loaded, or folded into the weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._io import atomic_dir, load_folder, save_folder
from efface.core.codec import decoded
from efface.core.fingerprint import fingerprint
from efface.core.saved_types import saved_type
from efface.core.site import Site
from efface.erasers.base import Eraser
from efface.scrubbing.controls import RandomSubspace
from efface.scrubbing.fold import Fold
from efface.scrubbing.hooks import Edit, install


def edit_of(eraser: Callable[[Tensor], Tensor]) -> Edit:
    """An eraser as an edit of hidden states on whatever device they are, as under `device_map`."""
    copies: dict[torch.device, Any] = {}

    def edit(x: Tensor) -> Tensor:
        if x.device not in copies:
            copies[x.device] = eraser.to(x.device) if hasattr(eraser, "to") else eraser  # type: ignore[attr-defined]
        return copies[x.device](x)

    return edit


class Scrubber:
    """Erasers for sites of a model.

    `with scrubber:` erases in every forward pass of the model that it was fitted on, `generate()` and training
    included, and `with scrubber.applied(model):` in those of another copy; `install_` does so until `remove_`;
    `fold_` puts it into the weights. Scrubbers of several concepts may be nested; the inner edit then comes second.

    Args:
        erasers: Site (or its address) -> callable from `(..., d)` to `(..., d)`.
        model: The model that `with scrubber:` is about; None asks for `applied(model)`.
        facts: What is known of the fit, plain data; `fingerprint` in it lets changed models be refused.

    Attributes:
        erasers: Site -> eraser, in the order of a forward pass.
        facts: As given.

    Does not guarantee: what `scrub` does not. In particular an edit applies to what the modules at its sites see: a
    model that is called around them (another attention path, a fused kernel) is not scrubbed.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> scrubber = Scrubber({"0": torch.zeros_like}, model=model)
    >>> with scrubber:
    ...     bool((model(torch.ones(1, 2)) == model[1].bias).all())
    True
    """

    def __init__(
        self,
        erasers: Mapping[Site, Any] | Mapping[str, Any] | Mapping[Site | str, Any],
        *,
        model: nn.Module | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.erasers: dict[Site, Any] = {
            site if isinstance(site, Site) else Site.parse(site): eraser for site, eraser in erasers.items()
        }
        self.facts = dict(facts or {})
        self._model = model
        self._on: dict[int, tuple[nn.Module, ExitStack, int]] = {}
        self._fold: Fold | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in the order of a forward pass."""
        return tuple(self.erasers)

    @property
    def rank(self) -> dict[Site, int]:
        """How many dimensions each eraser takes out."""
        return {site: _rank(eraser) for site, eraser in self.erasers.items()}

    def summary(self) -> list[dict[str, Any]]:
        """A row for each site, as plain data.

        Keys: `site`; `rank`; `residual`, the largest correlation of a feature with the concept left after the edit;
        `edit`, its relative size; `n`, tokens.
        """
        rows = []
        for site, eraser in self.erasers.items():
            report = getattr(eraser, "report", None)
            found = {key: getattr(report, key, None) for key in ("residual", "edit", "n")}
            rows.append({"site": str(site), "rank": _rank(eraser), **found})
        return rows

    def __repr__(self) -> str:
        method, more = self.facts.get("method", "erasers"), ", ..." * (len(self.sites) > 3)
        return f"Scrubber({method}, {len(self.erasers)} sites: {', '.join(map(str, self.sites[:3]))}{more})"

    # ---------------------------------------------------------------------------------------- on and off

    def install_(self, model: nn.Module | None = None, *, check_model: bool = True) -> Self:
        """Erase in every forward pass from now on, until `remove_`. A second call on the same model changes nothing.

        Args:
            model: The model; None takes the one that it was fitted on.
            check_model: Refuse a model whose weights are not those of the fit; False for one that is being trained.

        Raises:
            InputError: If the model lacks a site or is not the one of the fit. Nothing is installed then.
        """
        model = self._the(model)
        if id(model) in self._on:
            _, stack, depth = self._on[id(model)]
            self._on[id(model)] = (model, stack, depth + 1)
            return self
        self._check(model, check_model)
        stack = install(model, {site: edit_of(eraser) for site, eraser in self.erasers.items()})
        self._on[id(model)] = (model, stack, 1)
        return self

    def remove_(self, model: nn.Module | None = None) -> Self:
        """Take off what `install_` put on; a model on which nothing is on is left alone."""
        on = self._on.pop(id(self._the(model)), None)
        if on is not None:
            on[1].close()
        return self

    @contextmanager
    def applied(self, model: nn.Module | None = None, *, check_model: bool = True) -> Iterator[Self]:
        """Erase inside a `with` block; arguments and errors as `install_`."""
        model = self._the(model)
        self.install_(model, check_model=check_model)
        try:
            yield self
        finally:
            self._leave(model)

    def __enter__(self) -> Self:
        return self.install_()

    def __exit__(self, *_: object) -> None:
        self._leave(self._the(None))

    def _leave(self, model: nn.Module) -> None:
        _, stack, depth = self._on.get(id(model), (model, None, 0))
        if depth > 1 and stack is not None:
            self._on[id(model)] = (model, stack, depth - 1)
        else:
            self.remove_(model)

    def _the(self, model: nn.Module | None) -> nn.Module:
        model = self._model if model is None else model
        if model is None:
            raise InputError("this scrubber was loaded, so it has no model: write `with scrubber.applied(model):`")
        return model

    def _check(self, model: nn.Module, check_model: bool) -> None:
        paths = {name for name, _ in model.named_modules()}
        if missing := [str(site) for site in self.sites if site.path not in paths]:
            more = f" and {len(missing) - 1} more sites" if len(missing) > 1 else ""
            raise InputError(
                f"{type(model).__name__} has no {missing[0]}{more}: apply a scrubber to the class of model that it "
                "was fitted on, with or without its head as there"
            )
        if self._fold is not None and self._fold.model is model:
            raise InputError("the erasers are folded into this model already: call unfold_() first")
        known = self.facts.get("fingerprint")
        if check_model and known is not None and fingerprint(model) != known:
            raise InputError(
                f"this {type(model).__name__} is not the model of the fit, its weights have changed: fit again with "
                "scrub(), or pass check_model=False if you know that the erasers still fit"
            )

    # --------------------------------------------------------------------------------- folding, controls

    def fold_(self, model: nn.Module | None = None, *, inputs: Mapping[str, Any] | None = None) -> Fold:
        """Put the erasers into the weights of the linear layers that follow their sites: exact, and free to run.

        Works for sites whose hidden states are read by linear layers alone, as after the norms of pre-norm models.
        New weights are formed in float64 and checked before any is put in; a bias is added where a layer has none,
        and a head tied to the embedding gets weights of its own. `model.save_pretrained` then saves the scrubbed model.

        Args:
            model: The model; None takes the one that it was fitted on.
            inputs: Keyword arguments for one small forward pass, in which is seen who reads what; None makes token
                ids or pixels.

        Returns:
            What was done, a `Fold`; its `.notes` say what saving needs.

        Raises:
            InputError: If a site cannot be folded (the text says who else reads it), or weights would not be finite.
                The model is then as it was.
        """
        model = self._the(model)
        if id(model) in self._on:
            raise InputError("the erasers are installed on this model: call remove_() (or leave the with block) first")
        if self._fold is not None and self._fold.model is not model:
            raise InputError("the erasers are folded into another model: call unfold_() first")
        self._check(model, True)
        self._fold = Fold(model, self.erasers, inputs)
        return self._fold

    def unfold_(self) -> Self:
        """Put back the weights that `fold_` replaced, bit for bit."""
        if self._fold is None:
            raise InputError("nothing is folded: call fold_() first")
        self._fold.undo()
        self._fold = None
        return self

    def export_pretrained(
        self, path: str | os.PathLike[str], model: nn.Module | None = None, *, inputs: Mapping[str, Any] | None = None
    ) -> None:
        """Save the scrubbed model by its own `save_pretrained`: it then needs no efface to stay scrubbed.

        The erasers are folded in, the model is saved, and they are taken out again.

        Args:
            path: Folder to write, atomically.
            model: A Hugging Face model; None takes the one that it was fitted on.
            inputs: As for `fold_`.

        Raises:
            InputError: If a site cannot be folded, or the model's class could not load the biases that the fold adds
                (then fit with `scrub(..., affine=False)`, whose erasers need none).
        """
        model = self._the(model)
        fold = self.fold_(model, inputs=inputs)
        try:
            if fold.notes:
                raise InputError(
                    f"{fold.notes[0]} ({len(fold.notes)} such layers): fit with scrub(..., affine=False), whose "
                    "erasers need no bias, or save the scrubber itself by save_pretrained"
                )
            with atomic_dir(path) as folder:
                model.save_pretrained(folder)  # type: ignore[operator]
        finally:
            self.unfold_()

    def random_control(self, seed: int = 0) -> Scrubber:
        """The control: at each site a random subspace of the same rank about the same mean, new for every batch."""
        controls = {
            site: RandomSubspace(_rank(eraser), getattr(eraser, "bias", None), seed=seed * 100_003 + i)
            for i, (site, eraser) in enumerate(self.erasers.items())
        }
        facts = {k: v for k, v in self.facts.items() if k == "fingerprint"} | {"method": "random", "seed": seed}
        return Scrubber(controls, model=self._model, facts=facts)

    def only(self, *sites: Site | str) -> Scrubber:
        """A scrubber of some of the sites. Fitted in sequence, an eraser fits only with all those before it on."""
        wanted = {site if isinstance(site, Site) else Site.parse(site) for site in sites}
        if unknown := wanted - set(self.erasers):
            given, known = (", ".join(map(str, sites)) for sites in (unknown, self.sites))
            raise InputError(f"no eraser for {given}: there are {known}")
        return Scrubber({s: e for s, e in self.erasers.items() if s in wanted}, model=self._model, facts=self.facts)

    # -------------------------------------------------------------------------------------------- files

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors` (the erasers' tensors, by number of the site) into a folder.

        Raises:
            InputError: If an eraser is a function or a control, which has no tensors to save.
        """
        entries, tensors = [], {}
        for i, (site, eraser) in enumerate(self.erasers.items()):
            if not isinstance(eraser, Eraser):
                raise InputError(f"the eraser of {site} is {eraser!r}, which cannot be saved: only fitted erasers can")
            entries.append(
                {"site": str(site), "type": type(eraser).__name__, "report": eraser.report and asdict(eraser.report)}
            )
            tensors |= {f"{i}.{name}": tensor for name, tensor in eraser.tensors().items()}
        save_folder(path, {"type": "Scrubber", "facts": self.facts, "erasers": entries}, tensors)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, model: nn.Module | None = None) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            FormatError: If the folder holds something else, is truncated, or was written by a newer efface.
        """
        config, tensors = load_folder(path, expect="Scrubber")
        erasers = {}
        for i, entry in enumerate(config["erasers"]):
            own = {name.partition(".")[2]: x for name, x in tensors.items() if name.partition(".")[0] == str(i)}
            kind = saved_type(entry["type"])
            plain, own = kind.upgraded({"type": entry["type"], "report": entry["report"]}, own)  # type: ignore[attr-defined]
            erasers[Site.parse(entry["site"])] = decoded(plain, own, kind, entry["site"])
        return cls(erasers, model=model, facts=config["facts"])


def _rank(eraser: Any) -> int:
    if isinstance(eraser, RandomSubspace):
        return eraser.rank
    left = getattr(eraser, "proj_left", None)
    return int(left.shape[1]) if isinstance(left, Tensor) else 0
