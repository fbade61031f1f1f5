"""The five kinds of edit that an erasure is made of: pure values, which know how they are put on a subject.

An edit holds functions and numbers, and keeps nothing of a run: what belongs to a run (how often it fired, what it
keeps from step to step) lives in the `Run` that it is handed.
"""

from __future__ import annotations

import difflib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface._errors import EffaceWarning, InputError
from efface.core.fingerprint import agrees, below_base, fingerprint, likeness
from efface.core.hooks import Remove, StateEdit, edit_states
from efface.core.run import Run
from efface.core.site import Site
from efface.core.subjects import Kind, called, has_module, located, module_at, unwrapped
from efface.core.watching import Watch
from efface.core.weights import WeightDelta
from efface.core.writing import fingerprint_below, write


class Edit(ABC):
    """One edit of an erasure.

    Attributes:
        needs: What it can be put on.
    """

    needs: ClassVar[tuple[Kind, ...]]

    @abstractmethod
    def bind(self, run: Run, *, check: bool = True) -> Remove:
        """Put the edit on the subject of a run; what is returned takes it off. If it raises, nothing is left.

        Args:
            run: Whose subject, and who is told what fired.
            check: Refuse a subject with other weights than those of the fit.
        """


@dataclass(frozen=True, eq=False)
class OnRows(Edit):
    """An edit of rows `(..., d)`: of arrays by calling the erasure, of a module's output by putting it on.

    Attributes:
        edit: Rows -> rows.
    """

    edit: Callable[[Tensor], Tensor]
    needs = ("model", "classifier")

    def bind(self, run: Run, *, check: bool = True) -> Remove:
        """Edit what a module gives."""
        return OnStates({Site(""): self.edit}).bind(run, check=check)


@dataclass(frozen=True, eq=False)
class OnStates(Edit):
    """Edits of hidden states at sites of a module, or of the denoiser of a pipeline.

    Attributes:
        edits: Site -> hidden states `(..., d)` -> what replaces them, or None. Of a pipeline's part they are called
            with what is known of the pass, too, `(states, given) -> states | None`: which rows of the batch are of
            the prompts, and which of the negative ones (`pipelines.following.Given`).
        base: Fingerprint of the model that they were fitted on; None fits any with these sites.
        part: Denoiser of a pipeline, such as `"unet"`, in whose passes of the pipeline's own calls the states are
            edited; empty for a model.
    """

    edits: Mapping[Site, Callable[..., Tensor | None]]
    base: str | None = None
    part: str = ""

    @classmethod
    def of_parts(
        cls,
        paths: Mapping[str, Iterable[str]],
        edited: Callable[..., Tensor | None],
        bases: Mapping[str, str],
    ) -> tuple[OnStates, ...]:
        """One for each denoiser, of what some of its layers give.

        Args:
            paths: Denoiser -> paths of its layers.
            edited: `(part, path, states, given)` -> what replaces the states, or None.
            bases: Denoiser -> fingerprint.
        """
        return tuple(
            cls({Site(path): partial(edited, part, path) for path in own}, bases.get(part), part)
            for part, own in paths.items()
        )

    @property
    def needs(self) -> tuple[Kind, ...]:  # type: ignore[override]
        """A pipeline if its part is named, else a model."""
        return ("pipeline",) if self.part else ("model", "classifier")

    def bind(self, run: Run, *, check: bool = True) -> Remove:
        """Hook every site.

        Raises:
            InputError: If the module lacks one, or has other weights than that of the fit.
        """
        if self.part:
            return self._bind_inside(run, check)
        model = unwrapped(run.view)
        edits = {located_site(model, site): edit for site, edit in self.edits.items()}
        check_sites(model, edits)
        if check:
            check_base(model, self.base, edits)
        root = called(run.view)
        watch = Watch(root, run, {site: str(site) or type(model).__name__ for site in edits})
        watched = {site: watch.through(site, started(edit)) for site, edit in edits.items()}
        with ExitStack() as stack:
            stack.callback(watch.bind())
            stack.callback(edit_sites(root, watched))
            return stack.pop_all().close

    def _bind_inside(self, run: Run, check: bool) -> Remove:
        part = run.view.components.denoisers.get(self.part)
        if part is None:
            raise InputError(f"{run.subject!r} has no denoiser {self.part!r} whose states could be edited")
        model = unwrapped(part)
        check_sites(model, self.edits)
        if check:
            check_base(model, self.base, self.edits)
        return run.view.install_inside(self.part, {s: partial(_counted, run, s, e) for s, e in self.edits.items()})


def _counted(run: Run, site: Site, edit: Callable[..., Tensor | None], x: Tensor, given: Any) -> Tensor | None:
    changed = edit(x, given)
    if changed is not None:
        run.count(str(site))
    return changed


def check_sites(model: nn.Module, sites: Any) -> None:
    """Refuse sites that a model does not have.

    Raises:
        InputError: For the first one; the text names those that come near.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"a scripted model ({type(model).__name__}) takes no edits: give the model itself")
    paths = {name for name, _ in model.named_modules()}
    missing = [site for site in sites if site.path not in paths and not has_module(model, site.path)]
    if missing:
        near = difflib.get_close_matches(missing[0].path, paths, n=2, cutoff=0.6)
        more = f" and {len(missing) - 1} more sites" if len(missing) > 1 else ""
        hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise InputError(
            f"{type(model).__name__} has no {missing[0]}{more}{hint}: put an erasure on the class of model that it was "
            "fitted on"
        )


def located_site(model: nn.Module, site: Site) -> Site:
    """A site of a model with or without its head in the same model without or with it."""
    return replace(site, path=located(model, site.path))


def check_base(model: nn.Module, base: str | None, sites: Iterable[Site] = (Site(""),)) -> None:
    """Refuse a model whose weights, without what is written into it, are not those of a fit.

    Args:
        model: The model.
        base: Fingerprint of the model of the fit.
        sites: Where it is to be the same; its head does not count where they all lie below.

    Raises:
        InputError: If its fingerprint is another one.
    """
    if base is None or agrees(base, fingerprint(model, parts=False)):
        return
    paths = {below_base(model, site.path) for site in sites}
    found = likeness(base, fingerprint(model), paths)
    found = likeness(base, fingerprint_below(model), paths) if found == "other" else found
    if found == "other":
        raise InputError(
            f"this {type(model).__name__} is not the model of the fit, its weights have changed: fit again, or write "
            "on(model, check=False) if you know that the erasure still fits"
        )
    if found == "quantised":
        warnings.warn(
            f"this {type(model).__name__} is a quantised copy of the model of the fit, or the other way round: their "
            "norms are the same, but hidden states differ a little, and so much of the concept may be left; fit on "
            "this one for more",
            EffaceWarning,
            stacklevel=6,
        )


def edit_sites(model: nn.Module, edits: Mapping[Site, StateEdit]) -> Remove:
    """Replace the hidden states at sites of a model in every forward pass, all of them or none."""
    with ExitStack() as stack:
        for site, edit in edits.items():
            module = module_at(model, site.path)
            if isinstance(module, torch.jit.ScriptModule):
                raise InputError(f"{site} is scripted or traced ({type(module).__name__}): put the part itself there")
            stack.callback(edit_states(module, edit, where=site.where, index=site.index, name=site))
        return stack.pop_all().close


def started(edit: Callable[[Tensor], Any]) -> StateEdit:
    """An edit for one run: on whatever device hidden states are, as under `device_map`, and with a state of its own.

    An edit that goes on from call to call is a pure value with a method `begin()`, which gives what does.
    """
    edit = edit.begin() if hasattr(edit, "begin") else edit  # type: ignore[attr-defined]
    if not hasattr(edit, "to"):
        return edit
    homes = {value.device for value in getattr(edit, "__dict__", {}).values() if isinstance(value, Tensor)}
    copies: dict[torch.device, Any] = dict.fromkeys(homes if len(homes) == 1 else (), edit)
    copied = torch.compiler.disable()(_moved)  # here and not above: it loads the compiler, for more than a second

    def moved(x: Tensor) -> Tensor | None:
        if x.device not in copies:
            copies[x.device] = copied(edit, x.device)
        return copies[x.device](x)

    return moved


def _moved(edit: Any, device: torch.device) -> Any:
    with torch.inference_mode(False):  # what is moved may serve in training later
        return edit.to(device)


@dataclass(frozen=True, eq=False)
class OnText(Edit):
    """An edit of prompts as a pipeline's denoiser gets them.

    Attributes:
        edit: `(embedding, run) -> embedding | None`.
        listens: Only listens to what a call encodes: it is told of embeddings that have been through it, too.
        suits: Called with the pipeline's view before anything is put on it; raises where the edit does not suit it.
    """

    edit: Callable[[Any, Run], Any]
    listens: bool = False
    suits: Callable[[Any], None] | None = None
    needs = ("pipeline",)

    def bind(self, run: Run, *, check: bool = True) -> Remove:
        """Edit what the pipeline encodes."""
        if self.suits is not None:
            self.suits(run.view)
        edit = partial(_second, self.edit, run)
        if check and (marks := getattr(getattr(run, "erasure", None), "fitted_to", None)):
            edit = partial(_fitting, edit, run, marks)
        return run.view.install_edit(edit, once=not self.listens)


def _fitting(edit: Callable[[Any], Any], run: Run, marks: Mapping[str, str], value: Any) -> Any:
    run.view.check_fit(marks)
    return edit(value)


@dataclass(frozen=True, eq=False)
class OnPrediction(Edit):
    """An edit of one denoising step.

    Attributes:
        after: `(step, run) -> prediction | None`: what the denoiser said of the prompts, before guidance.
        before: `(index, embedding, rows, run) -> rows | None`: the rows of text that it is given at a step.
    """

    after: Callable[[Any, Run], Tensor | None] | None = None
    before: Callable[[int, Any, Tensor, Run], Tensor | None] | None = None
    needs = ("pipeline",)

    def bind(self, run: Run, *, check: bool = True) -> Remove:
        """Follow the pipeline's sampling."""
        with ExitStack() as stack:
            if self.before is not None:
                stack.callback(run.view.install_swap(partial(_fourth, self.before, run)))
            if self.after is not None:
                stack.callback(run.view.install_rule(partial(_second, self.after, run)))
            return stack.pop_all().close


def _second(edit: Callable[[Any, Run], Any], run: Run, value: Any) -> Any:
    return edit(value, run)


def _fourth(edit: Callable[[int, Any, Tensor, Run], Any], run: Run, index: int, embedding: Any, rows: Tensor) -> Any:
    return edit(index, embedding, rows, run)


@dataclass(frozen=True, eq=False)
class OnWeights(Edit):
    """An edit of weights.

    Attributes:
        delta: How they change.
        part: Component of a pipeline whose weights they are, such as `"unet"`; empty for a model.
    """

    delta: WeightDelta
    part: str = ""

    @property
    def needs(self) -> tuple[Kind, ...]:  # type: ignore[override]
        """A pipeline if its part is named, else a model."""
        return ("pipeline",) if self.part else ("model", "classifier")

    def bind(self, run: Run, *, check: bool = True) -> Remove:
        """Write the delta.

        Raises:
            InputError: If the model is another one, or does not have these weights.
        """
        model = run.subject.thing
        if self.part:
            model = getattr(model, self.part, None)
        if not isinstance(model, nn.Module):
            raise InputError(f"{run.subject!r} has no model {self.part!r} whose weights could be edited")
        return write(model, self.delta, name=run.name, check=check)
