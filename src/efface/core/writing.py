"""Writing weight edits into a model, with an undo that is exact bit for bit: the one place that does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.fingerprint import agrees, fingerprint
from efface.core.ledger import ledger_of
from efface.core.subjects import unwrapped
from efface.core.weights import Add, Change, Put, WeightDelta

_SAMPLE = 4096
_MISSING = object()


@dataclass(frozen=True, eq=False)
class _Place:
    """One parameter or buffer of a module."""

    module: nn.Module
    name: str
    path: str

    @property
    def value(self) -> Tensor | None:
        return getattr(self.module, self.name, None)

    @property
    def is_there(self) -> bool:
        """Whether it is a parameter or buffer still."""
        return self.name in self.module._parameters or self.name in self.module._buffers

    def put(self, value: Tensor | None) -> None:
        """Put a value there as it is, past all checks."""
        own = self.module._buffers if self.name in self.module._buffers else self.module._parameters
        own[self.name] = value  # type: ignore[assignment]

    def like(self, value: Tensor, old: Tensor | None) -> Tensor:
        """A value as a parameter or buffer like the one that was there."""
        if self.name in self.module._buffers:
            return value
        trains = self.module.weight.requires_grad if old is None else old.requires_grad  # type: ignore[union-attr]
        return nn.Parameter(value, requires_grad=bool(trains))


@dataclass(frozen=True, eq=False)
class _Switch:
    """A setting of a config, or an entry of a mapping that a module has."""

    owner: Any
    name: str

    @classmethod
    def of(cls, model: nn.Module, switch: str) -> _Switch:
        path, _, name = switch.rpartition(".")
        part, _, mapping = path.rpartition(".")
        try:
            owner = getattr(model.get_submodule(part), mapping or "config")
        except AttributeError:
            where = path or "model.config"
            raise InputError(f"the edit sets {name} of {where}, which this model does not have") from None
        return cls(owner, name)

    @property
    def value(self) -> Any:
        own = self.owner
        return own.get(self.name, _MISSING) if isinstance(own, dict) else getattr(own, self.name, _MISSING)

    def put(self, value: Any) -> None:
        own, name = self.owner, self.name
        if value is _MISSING:
            own.pop(name) if isinstance(own, dict) else delattr(own, name)
        elif isinstance(own, dict):
            own[name] = value
        else:
            setattr(own, name, value)


def _place(model: nn.Module, path: str) -> _Place:
    """The place of a name, inside the layer that an adapter (PEFT) may have wrapped."""
    parent, _, name = path.rpartition(".")
    try:
        module = model.get_submodule(parent)
    except AttributeError:
        raise InputError(
            f"{type(model).__name__} has no {parent!r}, whose {name} is edited: fit on this model"
        ) from None
    base = getattr(module, "base_layer", None)
    module = base if isinstance(base, nn.Module) else module
    place = _Place(module, name, path)
    if not place.is_there:
        raise InputError(f"{type(module).__name__} {parent!r} has no {name}: fit the edit on this architecture")
    return place


@torch.inference_mode(False)  # the model may be trained, or explained, with the edit in it
def _new_value(place: _Place, changes: Iterable[Change]) -> Tensor:
    """The value with the changes in it: formed in float64 (complex128), checked, in the dtype that was there."""
    old = place.value
    changes = tuple(changes)
    if old is None:
        weight: Any = place.module.weight
        old = torch.zeros(_width(changes), dtype=weight.dtype, device=weight.device)
    if old.device.type == "meta":
        raise InputError(
            f"{place.path} is not in memory (offloaded or on the meta device), so it cannot be edited: load the model "
            "without offloading"
        )
    if not (old.is_floating_point() or old.is_complex()) and not all(isinstance(c, Put) for c in changes):
        raise InputError(
            f"{place.path} holds {old.dtype}: a quantised weight cannot be edited; load the model unquantised"
        )
    value: Tensor = old.detach()
    if not isinstance(changes[-1], Put):
        value = value.to(torch.complex128 if value.is_complex() else torch.float64)
    for change in changes:
        value = _changed(place, change, value)
    value = value.to(old.dtype).contiguous()
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise InputError(
            f"{place.path} would get weights that are not finite in {old.dtype}; the model is as it was. Convert it "
            "first: model.float() or model.bfloat16()"
        )
    # A value of its own, neither what was there nor the delta's.
    return value.clone() if value.data_ptr() in _memory(old, changes) or value.is_inference() else value


def _memory(old: Tensor, changes: Iterable[Change]) -> set[int]:
    """Where what was there, and what is put, lies."""
    return {x.data_ptr() for x in (old, *(change.value for change in changes if isinstance(change, Put)))}


def _changed(place: _Place, change: Change, value: Tensor) -> Tensor:
    if not value.is_complex() and any(isinstance(x, Tensor) and x.is_complex() for x in vars(change).values()):
        raise InputError(f"{place.path} is real and its edit is complex: fit the edit on this model")
    try:
        found = change.on(value)
    except (RuntimeError, IndexError) as error:
        raise InputError(f"{place.path} is {tuple(value.shape)}, which its edit does not fit: {error}") from None
    if found.shape != value.shape:
        raise InputError(
            f"{place.path} is {tuple(value.shape)}, its edit is for {tuple(found.shape)}: fit on this model"
        )
    return found


def _check_commutes(place: _Place, changes: tuple[Change, ...], name: str) -> None:
    """Refuse to put a value over what another edit has written."""
    with ledger_of(place.module) as ledger:
        below = ledger.written.get(place.name, [])
        if below and any(isinstance(change, Put) for change in changes):
            raise InputError(
                f"{name} would overwrite what {below[-1].name} has put in {place.path}: undo that one first"
            )


def _width(changes: tuple[Change, ...]) -> tuple[int, ...]:
    first = changes[0]
    return tuple(first.value.shape) if isinstance(first, Add | Put) else (0,)


class Written:
    """A delta that is in a model, with what it replaced."""

    def __init__(self, model: nn.Module, delta: WeightDelta, name: str) -> None:
        self.model, self.name = model, name
        self._old: list[tuple[_Place, Tensor | None, Tensor]] = []
        self._switched: list[tuple[_Switch, Any]] = []
        places = {path: _place(model, path) for path in delta.changes}
        for path, place in places.items():
            _check_commutes(place, delta.changes[path], name)
        values = {path: _new_value(place, delta.changes[path]) for path, place in places.items()}
        switches = {switch: _Switch.of(model, switch) for switch in delta.config}
        try:
            for path, value in values.items():
                self._write(places[path], value)
            for switch, setting in delta.config.items():
                self._switched.append((switches[switch], switches[switch].value))
                switches[switch].put(setting)
        except BaseException:
            self()
            raise

    def _write(self, place: _Place, value: Tensor) -> None:
        old = place.value
        new = place.like(value, old)
        self._old.append((place, old, _sample(new)))
        with ledger_of(place.module) as ledger:
            ledger.written.setdefault(place.name, []).append(self)
        place.put(new)

    def replaced(self, module: nn.Module, name: str) -> Tensor | None:
        """What was there in the place of one parameter or buffer."""
        return next(old for place, old, _ in self._old if place.module is module and place.name == name)

    def check(self, together: Iterable[Written] = (), *, force: bool = False) -> None:
        """Refuse to be taken out.

        Args:
            together: What comes out with it.
            force: Also if the weights were changed since, and that is lost.

        Raises:
            InputError: If another edit lies over this one, or weights were changed since.
        """
        out = {id(each) for each in together}
        for place, _, sample in self._old:
            with ledger_of(place.module) as ledger:
                written = ledger.written[place.name]
                over = written[written.index(self) + 1 :]
            for other in reversed(over):
                if id(other) not in out:
                    raise InputError(f"{other.name} was written over {self.name} in {place.path}: undo that one first")
            if not place.is_there and (not force or hasattr(place.module, place.name)):
                raise InputError(
                    f"{place.path} is no parameter any more (of weight_norm or pruning, or deleted), so {self.name} "
                    "cannot be taken out of it: make it one again first, as by remove_parametrizations"
                )
            if not over and not force and not _is_still(place.value, sample):
                raise InputError(
                    f"{place.path} was changed since {self.name} was written into it (by training?), and undoing would "
                    "lose that: write undo(force=True) if it may be lost"
                )

    def __call__(self) -> None:
        """Put back what was there, bit for bit; a model that was converted, moved or frozen since stays so."""
        while self._old:
            place, old, _ = self._old[-1]
            place.put(_as_now(place, old))
            with ledger_of(place.module) as ledger:
                ledger.written[place.name].remove(self)
                if not ledger.written[place.name]:
                    del ledger.written[place.name]
            self._old.pop()
        while self._switched:
            switch, value = self._switched[-1]
            switch.put(value)
            self._switched.pop()


def write(model: nn.Module, delta: WeightDelta, *, name: str = "an edit", check: bool = True) -> Written:
    """Write a delta into a model.

    Args:
        model: The model; wrappers are looked through.
        delta: The delta.
        name: What it is called in errors.
        check: Refuse a model with other weights than those that it was made for.

    Raises:
        InputError: If the model is another one, lacks a parameter, or weights would not be finite; it is as it was.
    """
    model = unwrapped(model)
    marks = (fingerprint(model), fingerprint_below(model)) if check and delta.base is not None else ()
    if marks and not any(agrees(str(delta.base), mark) for mark in marks):
        raise InputError(
            f"{name} was fitted on a {type(model).__name__} with other weights than this one has: fit it again, or "
            "write on(model, check=False) if you know that it still fits"
        )
    return Written(model, delta, name)


def holds(model: nn.Module, delta: WeightDelta) -> bool:
    """Whether a model has the values that a delta puts in, but for a conversion to another dtype."""
    model = unwrapped(model)
    puts = {path: each[-1].value for path, each in delta.changes.items() if isinstance(each[-1], Put)}
    try:
        return all(_is_still(_place(model, path).value, _sample(value)) for path, value in puts.items())
    except InputError:
        return False


def fingerprint_below(model: nn.Module) -> str:
    """The fingerprint that a model has without what is written into it."""
    return fingerprint(model, _below)


def _below(module: nn.Module, name: str, value: Tensor | None) -> Tensor | None:
    """What is under all that is written over one parameter."""
    with ledger_of(module) as ledger:
        written = ledger.written.get(name)
        return written[0].replaced(module, name) if written else value


def _as_now(place: _Place, old: Tensor | None) -> Tensor | None:
    """What was there, in the dtype and on the device of now; the same object where nothing was converted."""
    now = place.value
    if old is None or now is None:
        return old
    if isinstance(old, nn.Parameter) and old.requires_grad != now.requires_grad:
        old.requires_grad_(now.requires_grad)
    if old.dtype == now.dtype and old.device == now.device:
        return old
    return place.like(old.detach().to(device=now.device, dtype=now.dtype), old)


def _sample(x: Tensor) -> Tensor:
    flat = x.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLE)].cpu().clone()


def _is_still(now: Tensor | None, sample: Tensor) -> bool:
    """Whether a value is what was written, but for a conversion to another dtype, there or there and back."""
    if now is None:
        return False
    found = _sample(now)
    if found.shape != sample.shape:
        return False
    if not sample.is_floating_point():
        return torch.equal(found, sample.to(found.dtype))
    ways: list[Callable[[Tensor], Tensor]] = [lambda s: s, lambda s: s.bfloat16(), lambda s: s.half()]
    return any(torch.equal(found, way(sample).to(found.dtype)) for way in ways)
