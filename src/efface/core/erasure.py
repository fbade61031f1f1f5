"""`Erasure`: a fitted erasure as a frozen value, whatever it erases from."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from efface._errors import EffaceWarning, FormatError, InputError
from efface._io import CARD, load_folder, reading, save_folder
from efface._validate import check_to, to_tensor
from efface.core.arrays import is_finite
from efface.core.card import model_card
from efface.core.codec import TENSOR, TYPE, decoded, digest, encoded
from efface.core.column_names import check_columns, common_columns
from efface.core.concept import Concept
from efface.core.config import Config
from efface.core.discovery import discover
from efface.core.doors import check_call
from efface.core.edits import Edit
from efface.core.installer import Handle, install
from efface.core.saved_types import saved, saved_base, saved_type

_OLDER = "read from a file of format 1, which kept no provenance, and not every option of a fit: others show defaults"
_NOT_HASHED = frozenset({"provenance"})


@saved_base
@dataclass(frozen=True, eq=False, repr=False)
class Erasure:
    """A fitted erasure: what was found, and the edits that follow from it. It knows no model.

    It can be compared, hashed, copied, pickled, saved and loaded; `on(subject)` puts it on, `a & b` joins two. Where
    nothing fires, a subject that has it on gives what it gives without it, bit for bit.

    A method derives from it as a `@dataclass(frozen=True, eq=False, repr=False)` with fields of its own (tensors,
    dataclasses, plain data) and `edits`.

    Attributes:
        method: Name of the method in the registry.
        concepts: What is erased.
        config: The options that it was fitted with.
        report: What the fit found and did.
        provenance: By what, from what and when it was fitted: plain data, which does not count in comparisons.

    Does not guarantee: that the concept is gone; see `efface.audit`.
    """

    method: str = field(default="", kw_only=True)
    concepts: tuple[Concept, ...] = field(default=(), kw_only=True)
    config: Config | None = field(default=None, kw_only=True, repr=False)
    report: Any = field(default=None, kw_only=True, repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True, repr=False)

    legacy_types: ClassVar[tuple[str, ...]] = ()
    """Names that files of earlier formats give its type."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        saved(cls)

    def __repr__(self) -> str:
        own = (f.name for f in dataclasses.fields(self) if not f.kw_only)
        shapes = {name: tuple(value.shape) for name in own if isinstance(value := getattr(self, name), Tensor)}
        said = [*map(repr, self.names), *(f"{name} {shape}" for name, shape in shapes.items())]
        return f"{type(self).__name__}({', '.join(said)})"

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What it does to a subject, in order; pure values."""
        raise TypeError(f"{type(self).__name__} does not define its edits")

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts' names."""
        return tuple(concept.name for concept in self.concepts)

    @property
    def fitted_to(self) -> Mapping[str, str]:
        """Text encoder of a pipeline -> its fingerprint at the fit, where what was learnt is of its embeddings."""
        return self.provenance.get("weights", {})

    def on(self, subject: Any, *, check: bool = True) -> Handle:
        """Put it on a subject: `with erasure.on(pipe) as run:`, or until `run.undo()`.

        Args:
            subject: An `nn.Module` or a pipeline, or a view of one.
            check: Refuse a model with other weights than that of the fit.

        Raises:
            InputError: If the subject is of another kind or does not suit it, or it is on already. Nothing is on then.
        """
        check_call(Erasure.on, locals())
        return install(self, self.edits, subject, check=check)

    def __and__(self, other: Erasure) -> Erasure:
        """Both, this one first."""
        if not isinstance(other, Erasure):
            return NotImplemented
        parts = tuple(p for each in (self, other) for p in (each.parts if isinstance(each, Joined) else (each,)))
        names: dict[Concept, None] = dict.fromkeys(c for part in parts for c in part.concepts)
        return Joined(parts, method="joined", concepts=tuple(names))

    # ------------------------------------------------------------------------------------------ as a value

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that it is; the same after saving and loading, on any device."""
        return digest(*encoded(self, skip=_NOT_HASHED))

    def __eq__(self, other: object) -> bool:
        if self is other or type(self) is not type(other):
            return self is other
        mark = self._mark
        return mark is not None and mark == other._mark  # type: ignore[union-attr]

    def __hash__(self) -> int:
        return object.__hash__(self) if self._mark is None else hash(self._mark)

    @property
    def _mark(self) -> str | None:
        """The digest; None where something in it is no data, such as a function: then it is equal to itself alone."""
        try:
            return self.digest
        except InputError:
            return None

    def __getstate__(self) -> dict[str, Any]:
        names = {f.name for f in dataclasses.fields(self)}
        return {name: value for name, value in vars(self).items() if name in names}

    @torch.inference_mode(False)
    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same on another device or in another floating dtype; arguments as `Tensor.to`.

        Raises:
            InputError: If they are none of its, the device is not there, or the dtype has no fractions.
        """
        check_to(args, kwargs)
        changed = {f.name: _moved(getattr(self, f.name), args, kwargs) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **changed)

    def describe(self) -> dict[str, Any]:
        """Plain data for people: method, concepts, options, and what the fit found."""
        return {
            "method": self.method,
            "concepts": [concept.to_dict() for concept in self.concepts],
            "config": None if self.config is None else self.config.to_dict(),
            "report": _plain(encoded(self.report)[0]),
            "sha256": self.digest,
            "provenance": dict(self.provenance),
        }

    # ------------------------------------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder with `config.json`, `model.safetensors` and a model card, atomically.

        Args:
            path: The folder.
            overwrite: Replace what a folder of this name holds.

        Raises:
            InputError: If the folder has something in it, or something in the erasure cannot be saved.
        """
        check_call(Erasure.save, locals())
        plain, tensors = encoded(self)
        if bad := next((name for name, value in tensors.items() if not is_finite(value)), None):
            raise InputError(f"{bad} has NaN or infinite values, which could not be loaded again: fit anew")
        plain = {"type": plain.pop(TYPE), **plain, "sha256": self.digest}
        save_folder(path, plain, tensors, overwrite=overwrite, more={CARD: model_card(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such folder.
            FormatError: If it holds something else, is damaged, or was written by a newer efface.
        """
        found = load(path)
        if not isinstance(found, cls):
            raise FormatError(f"{path} holds a {type(found).__name__}, expected a {cls.__name__}")
        return found

    def check(self) -> None:
        """Refuse tensors and numbers that do not go together; called for what comes from a file.

        Raises:
            InputError: If they do not.
        """

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Data of a file of format 1 as those of today."""
        refs = {name: {TENSOR: name} for name in tensors}
        return {**plain, **refs}, tensors


@dataclass(frozen=True, eq=False, repr=False)
class Joined(Erasure):
    """Several erasures as one: what `a & b` makes. Edits are put on in order, the first first.

    Does not guarantee: that an erasure which was fitted without the others still fits with them on.

    Attributes:
        parts: The erasures.
    """

    parts: tuple[Erasure, ...]

    def __post_init__(self) -> None:
        for i, part in enumerate(self.parts):
            if part in self.parts[:i]:
                raise InputError(f"{part!r} is in it twice, and an erasure is on once or not at all: leave one out")
        common_columns(*self.parts)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits, in order."""
        return tuple(edit for part in self.parts for edit in part.edits)

    @property
    def fitted_to(self) -> Mapping[str, str]:
        """That of its parts, which were fitted to one pipeline or do not suit each other."""
        return {name: mark for part in self.parts for name, mark in part.fitted_to.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the rows that its parts were fitted on."""
        return common_columns(*self.parts)

    def __call__(self, x: Any) -> Any:
        """Erase one after the other from rows `(..., d)`."""
        if not isinstance(x, Tensor):
            check_columns(self.columns, x)
            return np.asarray(self(to_tensor(x, "x")))
        for part in self.parts:
            if not callable(part):
                raise InputError(f"{part!r} does not erase from rows: put it on its subject, on(subject)")
            x = part(x)
        return x


@torch.inference_mode(False)
def load(path: str | os.PathLike[str]) -> Any:
    """Whichever erasure is in a folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        FormatError: If it holds something else, is damaged, or was written by a newer efface.
    """
    discover()
    plain, tensors = load_folder(path)
    version, mark = plain.pop("format_version"), plain.pop("sha256", None)
    plain.pop("complex", None)
    plain[TYPE] = plain.pop("type", None)
    with reading(path):
        if mark is not None or version > 1:  # older files have none
            _check_mark(path, mark, plain, tensors)
        cls = _type_of(plain, version)
        if version == 1:
            plain, tensors = cls.upgraded(plain, tensors)
            plain = {**plain, "provenance": {"note": _OLDER}}
        found = decoded({**plain, TYPE: cls.__name__}, tensors, cls, "the erasure")
        found.check()
        return found


def _check_mark(path: str | os.PathLike[str], mark: Any, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Tell of a file that is not as it was saved; it may have been edited by hand on purpose."""
    now = digest({k: v for k, v in plain.items() if k not in _NOT_HASHED}, tensors)
    if mark != now:
        said = "none" if mark is None else f"{str(mark)[:12]}..."
        warnings.warn(
            f"{os.fspath(path)} was changed after it was saved: its SHA-256 is {now[:12]}..., and {said} stands in it",
            EffaceWarning,
            stacklevel=4,
        )


def _type_of(plain: Mapping[str, Any], version: int) -> type[Erasure]:
    name = plain.get(TYPE)
    if version == 1:
        for cls in _all_types(Erasure):
            if name in cls.legacy_types:
                return cls
    cls = saved_type(name, Erasure)
    if not issubclass(cls, Erasure):
        raise FormatError(f"it holds a {name}, which is no erasure")
    return cls


def _all_types(cls: type[Erasure]) -> list[type[Erasure]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _all_types(sub))]


def _moved(value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.to(*args, **kwargs) if value.is_floating_point() or value.is_complex() else value
    if isinstance(value, Erasure):
        return value.to(*args, **kwargs)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
        changed = {name: _moved(getattr(value, name), args, kwargs) for name in names}
        same = all(changed[name] is getattr(value, name) for name in names)
        return value if same else dataclasses.replace(value, **changed)
    if isinstance(value, Mapping):
        return {k: _moved(v, args, kwargs) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_moved(v, args, kwargs) for v in value)
    return value


def _plain(value: Any) -> Any:
    """Without the types that files need."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if k != TYPE}
    return [_plain(v) for v in value] if isinstance(value, list) else value
