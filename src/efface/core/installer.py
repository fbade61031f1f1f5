"""The one installer: it puts an erasure's edits on a subject, and gives a handle that takes them off again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import MethodType, TracebackType
from typing import Any, NoReturn, Self

import torch
from torch import nn

from efface._errors import EffaceWarning, InputError
from efface._interrupts import uninterrupted
from efface.core.edits import Edit, OnWeights
from efface.core.hooks import Remove, compiled_frames, patch, silently
from efface.core.ledger import ledger_of
from efface.core.run import Run
from efface.core.subjects import Subject, as_subject, unwrapped
from efface.core.writing import Written


class Handle(Run):
    """An erasure that is on a subject.

    A `with` block takes it off at its end; `undo()` does so at any time. Handles come off in any order, but for edits
    of the same weights, of which the last comes off first.

    Attributes:
        erasure: What is on.
        subject: What it is on.
        log: What it did: counts of events, and plain data of the last calls.
    """

    def __init__(self, erasure: Any, subject: Subject) -> None:
        super().__init__(subject, repr(erasure))
        self.erasure = erasure
        self._removes: list[Remove] = []

    @property
    def is_on(self) -> bool:
        """Whether it has not been taken off yet."""
        with ledger_of(_owner(self.subject)) as ledger:
            return self in ledger.handles

    def undo(self, *, force: bool = False) -> None:
        """Take the erasure off; other erasures stay. Nothing happens where it is off already.

        Args:
            force: Put weights back even if they were changed since, and that is lost.

        Raises:
            InputError: If another edit of the same weights lies over this one, or weights were changed since; all of
                it is on then, as before.
        """
        with uninterrupted():
            with ledger_of(_owner(self.subject)) as ledger:
                if self not in ledger.handles:
                    return
                written = [remove for remove in self._removes if isinstance(remove, Written)]
                for each in written:
                    each.check(written, force=force)
                while self._removes:
                    self._removes[-1]()
                    self._removes.pop()
                ledger.handles.remove(self)
            _recompile()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"Handle({self.name} on {self.subject!r}, {'on' if self.is_on else 'off'})"

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a copy of the subject tells the same log

    def __reduce__(self) -> NoReturn:
        raise TypeError("a handle belongs to its subject and cannot be pickled: save the erasure instead")


def install(erasure: Any, edits: Sequence[Edit], thing: Any, *, check: bool = True) -> Handle:
    """Put edits on a subject, all of them or none.

    Args:
        erasure: Whose they are.
        edits: The edits, in order.
        thing: An `nn.Module`, a pipeline, or a view of one.
        check: Refuse a subject with other weights than those of the fit.

    Raises:
        InputError: If the subject is of another kind, does not suit the erasure, or has it on already.
    """
    subject = as_subject(thing)
    _check_kind(erasure, edits, subject)
    if check:
        _check_weights(erasure, subject)
    run = Handle(erasure, subject)
    try:
        with uninterrupted():
            _put_on(run, edits, check=check)
            _recompile()
        return run
    except BaseException:
        run.undo()
        raise


def _put_on(run: Handle, edits: Sequence[Edit], *, check: bool) -> None:
    with ledger_of(_owner(run.subject)) as ledger, ExitStack() as stack:
        _check_twice(run.erasure, run.subject, ledger.handles)
        for edit in edits:
            remove = edit.bind(run, check=check)
            stack.callback(remove)
            run._removes.append(remove)
        # Edits of weights are in whatever holds the weights, but where an adapter alone is saved, or not all is loaded.
        in_weights = all(isinstance(edit, OnWeights) for edit in edits) and not getattr(run.erasure, "unsaved", "")
        if not in_weights or _saves_adapters(run.subject.thing):
            for remove in _tell_outside(run):
                stack.callback(remove)
                run._removes.append(remove)
        ledger.handles.append(run)
        stack.pop_all()


def handles_on(thing: Any) -> tuple[Handle, ...]:
    """What is on a subject now, the first first."""
    subject = as_subject(thing)
    if subject.kind == "rows":
        return ()
    with ledger_of(_owner(subject)) as ledger:
        return tuple(ledger.handles)


def _owner(subject: Subject) -> Any:
    """Where it is noted what is on a subject, whatever is wrapped around it."""
    return unwrapped(subject.thing) if isinstance(subject.thing, nn.Module) else subject.thing


def _check_kind(erasure: Any, edits: Sequence[Edit], subject: Subject) -> None:
    for edit in edits:
        if subject.kind not in edit.needs:
            if subject.kind == "rows":
                raise InputError(
                    f"{erasure!r} cannot be put on an array: call it, erased = erasure(x)"
                    if "pipeline" not in edit.needs
                    else f"{erasure!r} is for a pipeline, not for an array"
                )
            raise InputError(f"{erasure!r} is for a {' or '.join(edit.needs)}, and this is a {subject!r}")


def _check_weights(erasure: Any, subject: Subject) -> None:
    """Refuse a pipeline whose text encoders are not those that the erasure was fitted to."""
    if marks := getattr(erasure, "fitted_to", None):
        subject.view.check_fit(marks)


def _check_twice(erasure: Any, subject: Subject, on: Sequence[Handle]) -> None:
    for handle in on:
        if handle.erasure is erasure or handle.erasure == erasure:
            raise InputError(f"{erasure!r} is on this {type(subject.thing).__name__} already: undo() its handle")


def _recompile() -> None:
    """Compiled code does not see hooks that come or go: whatever was compiled is compiled anew when it is next run.

    All of it, as a module does not know who has compiled a call of it.
    """
    if compiled_frames():
        torch.compiler.reset()
        compiled_frames().clear()


def _tell_outside(run: Handle) -> Iterator[Remove]:
    """Warn where an erasure does not come along: in files of its subject."""
    thing = run.subject.thing
    own = vars(thing).get("save_pretrained")
    if hasattr(type(thing), "save_pretrained") and (own is None or getattr(own, "__func__", None) is _save_without):
        # A method, as that of a deep copy is bound to the copy.
        yield patch(thing, "save_pretrained", MethodType(_save_without, thing))


def _saves_adapters(thing: Any) -> bool:
    """Whether `save_pretrained` writes PEFT's adapters alone."""
    return hasattr(thing, "get_base_model") or bool(getattr(thing, "_hf_peft_config_loaded", False))


def _save_without(thing: Any, *args: Any, **kwargs: Any) -> Any:
    for handle in handles_on(thing):
        if why := getattr(handle.erasure, "unsaved", ""):
            raise InputError(f"{handle.name} cannot be saved with the {type(thing).__name__}: {why}")
    if on := ", ".join(handle.name for handle in handles_on(thing)):
        warnings.warn(
            f"what is saved is the {type(thing).__name__} without {on}: save the erasure, too, and "
            "put it on what is loaded, efface.load(folder).on(loaded)",
            EffaceWarning,
            stacklevel=2,
        )
    with silently():
        return type(thing).save_pretrained(thing, *args, **kwargs)
