"""What is looked at while edits of states are on a model: that each of them runs, and that nobody gets round them.

A model can pass an edit by in ways that nobody has thought of: it calls a part's `forward` and not the part, runs code
that was compiled or traced, keeps a layer's output before the edit has it, or reads a cache of an earlier call. So each
call of the model is looked at where it ends: which edits ran in it, and whether a tensor that an edit has replaced
comes out of the model, or of a module around the site, all the same.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from efface._errors import EffaceWarning, InputError, NotReachedWarning
from efface.core.hooks import Remove, StateEdit, compiled_frames, is_resting, look, look_before, not_pickled
from efface.core.run import Run
from efface.core.site import Site
from efface.core.subjects import module_at

CACHES = ("past_key_values", "cache_params", "mems")
"""What models call what they keep of earlier tokens."""

_MARK = "_efface_filled_under"


class Watch:
    """Looks at each call of a model, and says once what passes the edits that are on it.

    Nothing is looked at in compiled code, which is made anew when an edit comes (see `installer`).
    """

    def __init__(self, model: nn.Module, run: Run, sites: Mapping[Site, str]) -> None:
        self.model, self.run, self.sites = model, run, sites
        self.passes = 0
        self._waiting = list(sites.values())  # those that have not run yet
        self._told: set[str] = set()
        self._around = ExitStack()  # hooks on the modules around the sites, for one call
        self._checkpointing = [part for part in model.modules() if hasattr(part, "gradient_checkpointing")]
        self._gradients: set[int] = set()
        self._awaited = 0
        self._over = False

    def bind(self) -> Remove:
        """Begin to look; what is returned ends it, and says what is left to be said."""
        before = look_before(self.model, self.entering, kwargs=True, first=True)
        after = look(self.model, self.leaving, kwargs=True)

        def remove() -> None:
            before()
            after()
            self._around.close()
            self._over = True
            self._tell_at_the_end()

        return remove

    def __reduce__(self) -> NoReturn:
        raise not_pickled("model")

    def __deepcopy__(self, memo: Any) -> Watch:
        twin = memo[id(self)] = object.__new__(Watch)
        vars(twin).update(vars(self) | {"model": copy.deepcopy(self.model, memo), "_around": ExitStack()})
        return twin

    def through(self, site: Site, edit: StateEdit) -> StateEdit:
        """An edit that is counted, and what it replaces remembered for as long as somebody else has it."""
        name = self.sites[site]

        def counting(x: Tensor) -> Tensor | None:
            if torch.compiler.is_compiling():
                return edit(x)
            self.run.count(name)
            changed = edit(x)
            if site.where == "output" and changed is not None and changed is not x:
                self._replaced.append((name, weakref.ref(x)))
            return changed

        return counting

    @property
    def _replaced(self) -> list[tuple[str, weakref.ref[Tensor]]]:
        """What this thread's call has replaced so far."""
        return self.run.memory.setdefault(self, [])

    # --------------------------------------------------------------------------------------------- a call

    def entering(self, module: nn.Module, _args: Any, kwargs: Mapping[str, Any]) -> None:
        """Before a call."""
        if torch.compiler.is_compiling() or is_resting():
            return
        self._replaced.clear()
        for name in CACHES:
            if (cache := kwargs.get(name)) is not None:
                self._check_cache(name, cache)
        if not self.passes:
            self._look_around()

    def leaving(self, module: nn.Module, _args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        """After a call."""
        if torch.compiler.is_compiling() or is_resting():
            return
        if torch.is_grad_enabled() and any(
            part.training and part.gradient_checkpointing for part in self._checkpointing
        ):
            self._await_gradient(output)
        if compiled_frames():  # parts may have run as compiled code, which counts nothing
            return
        self.passes += 1
        self._check_shown(module, output)
        if self.passes == 1:
            self._around.close()
            self._check_kept()
        for name in CACHES:
            cache = output.get(name) if isinstance(output, Mapping) else None
            if cache is not None and kwargs.get(name) is None:
                self._filled(cache)
        if self._waiting:
            self._check_reached()

    def _look_around(self) -> None:
        """Look at what the modules around the sites give, too, in one call."""
        paths = {parent for site in self.sites for parent in _parents(site.path)}
        for path in sorted(paths):
            self._around.callback(look(module_at(self.model, path), self._gave))

    def _gave(self, module: nn.Module, _args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            self._check_shown(module, output)

    # --------------------------------------------------------------------------------------------- what is said

    def _check_shown(self, module: nn.Module, output: Any) -> None:
        """Whether a module gives, among others, states as they were before an edit."""
        alive = {id(x): name for name, ref in self._replaced if (x := ref()) is not None}
        if alive and (found := [alive[id(x)] for x in tensors_in(output) if id(x) in alive]):
            self._say(
                "shown",
                f"{type(module).__name__} gives the hidden states of {found[0]} as they were before {self.run.name} "
                "took them, beside those after it: whoever reads these reads what was erased; take them by a forward "
                "hook of your own, or from the states that go on",
            )

    def _check_kept(self) -> None:
        """Whether a module keeps such states for whoever reads its attributes."""
        alive = {id(x): name for name, ref in self._replaced if (x := ref()) is not None}
        if not alive:
            return
        for path, module in self.model.named_modules():
            for key, value in vars(module).items():
                if any(id(x) in alive for x in tensors_in(value)) and not key.startswith("_"):
                    self._say(
                        "kept",
                        f"{path or type(module).__name__} keeps hidden states in its attribute {key!r} as they were "
                        f"before {self.run.name} took them: whoever reads these reads what was erased",
                    )

    def _check_reached(self) -> None:
        counts = self.run.log.counts
        self._waiting = [name for name in self._waiting if not counts.get(name)]
        if missed := [name for name in self._waiting if name not in self._told]:
            self._told.update(missed)
            warnings.warn(
                f"{type(self.model).__name__} was called and never came by {_some(missed)}: nothing was erased there. "
                "It may not use this part for such input, or have run it as traced or compiled code, or by its "
                "forward(), which no hook sees",
                NotReachedWarning,
                stacklevel=2,
            )

    def _check_cache(self, name: str, cache: Any) -> None:
        """Whether a cache was filled before the erasure was on."""
        if self._is_ours(cache) or not _length(cache):
            return self._filled(cache)
        self._filled(cache)
        self._say(
            "cache",
            f"{name} was filled without {self.run.name}: what it kept of earlier tokens is not erased; fill it again "
            "while the erasure is on",
        )

    def _is_ours(self, cache: Any) -> bool:
        return self._mine in getattr(cache, _MARK, ())

    def _filled(self, cache: Any) -> None:
        """Note on a cache that what is in it was computed under this erasure; copies have the note, too."""
        if hasattr(cache, "__dict__"):
            vars(cache)[_MARK] = {*getattr(cache, _MARK, ()), self._mine}

    @property
    def _mine(self) -> int:
        return id(getattr(self.run, "erasure", self.run))

    def _await_gradient(self, output: Any) -> None:
        """Parts of the model are run again when the gradient of this call is computed."""
        found = [x for x in tensors_in(output) if x.requires_grad]
        if found:
            self._awaited += 1
            self._gradients.add(number := self._awaited)
            for x in found:  # the caller may go on from any of them
                x.register_hook(lambda _grad: self._comes_back(number))

    def _comes_back(self, number: int) -> None:
        """A gradient arrives, and parts of the model are about to be run again."""
        if self._over:
            raise InputError(
                f"{self.run.name} has been taken off, and backward() would run a {type(self.model).__name__} with "
                "gradient checkpointing again, without: call backward() while the erasure is on"
            )
        self._gradients.discard(number)

    def _tell_at_the_end(self) -> None:
        if self._gradients:
            warnings.warn(
                f"{self.run.name} is taken off a {type(self.model).__name__} with gradient checkpointing before "
                "backward(), which runs it again, without: call backward() while the erasure is on",
                EffaceWarning,
                stacklevel=7,
            )
        counts = self.run.log.counts
        if self.passes > 1 and (missed := [name for name in self._waiting if not counts.get(name)]):
            warnings.warn(
                f"{type(self.model).__name__} ran {self.passes} times and never came by {_some(missed)}: "
                "nothing was erased there",
                NotReachedWarning,
                stacklevel=7,
            )

    def _say(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warnings.warn(text, NotReachedWarning, stacklevel=3)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition(".")[0]:
        yield path


def _length(cache: Any) -> int:
    """How many tokens a cache has; of one that does not say, whether there is one."""
    if isinstance(cache, (tuple, list)):
        return len(cache)
    for name in ("get_seq_length", "has_previous_state"):
        found: Any = getattr(cache, name, None)
        try:
            return int(found() if callable(found) else found)  # type: ignore[call-overload]
        except (TypeError, ValueError):  # it has none, or has layers of another kind
            continue
    return 1


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module gives: itself, or in tuples, lists and mappings.

    >>> len(list(tensors_in((torch.ones(1), {"hidden_states": (torch.ones(1), None)}))))
    2
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from tensors_in(each)
