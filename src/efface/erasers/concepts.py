"""Several concepts on the same rows: the covariance of x is kept once, and an eraser for each is solved from it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from efface._errors import FormatError, InputError
from efface._io import load_folder, reading, save_folder
from efface._text import shown
from efface._validate import check_device, check_positive_int, did_you_mean
from efface.core.codec import decoded, fields_of
from efface.core.collective import Group, same_in_all
from efface.core.column_names import check_same_rows, columns_of
from efface.core.doors import check_call
from efface.core.labels import Kind
from efface.core.method import get_method, methods
from efface.core.row_labels import Labels, read_labels
from efface.erasers.base import eraser_dtype
from efface.erasers.fitter import Fitter, agreed, to_tensors
from efface.erasers.leace import LeaceFitter, Whitening
from efface.moments.streaming import Moments


class ConceptsFitter:
    """Fits an eraser for each of several concepts, and one for all of them, on the same rows.

    Of the rows one `(d, d)` scatter is kept, whatever the number of concepts, and for each concept of width k its
    `(d, k)` cross-scatter: the cost is about that of one concept. Each eraser is that of a fitter of its own on these
    rows, up to the rounding of sums over columns; see `erasers`.

    Args:
        x_dim: Width d of x.
        concepts: Name -> width of its labels: the number of classes (1 will do for two classes 0/1), or of columns.
        method: A method of rows that stands on means and covariances of all rows: `"leace"`, `"orth"`,
            `"mean-difference"`, `"oracle"`. `"quadratic"` keeps covariances of each class, which no two concepts share.
        kinds: Name -> what its labels are, where that is not what their dtype says.
        device: Where statistics live.
        dtype: Dtype of the erasers (float32 by default); float64 also forms all products in float64.
        options: Further options of the method, the same for all concepts, such as `shrinkage=False`.

    Attributes:
        concepts: Name -> width.
        method: Name of the method.

    Does not guarantee: that erasers of several concepts can be applied one after the other: the later concepts would
    stay in part. `joint` erases all at once, at the least edit.

    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> z = {"sign": (x[:, 0] > 0), "size": x[:, 1]}
    >>> fitter = ConceptsFitter(8, {"sign": 2, "size": 1}, dtype=torch.float64).update(x, z)
    >>> [fitter.erasers[name].report.rank for name in fitter.erasers], fitter.joint.report.rank
    ([1, 1], 2)
    """

    def __init__(
        self,
        x_dim: int,
        concepts: Mapping[str, int],
        *,
        method: str = "leace",
        kinds: Mapping[str, Kind] | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        check_call(ConceptsFitter.__init__, locals())
        self.concepts, words = checked_widths(concepts), dict(kinds) if kinds else {}
        check_names(words, self.concepts, "kinds", missing=False)
        make = _sharing(method)
        if "kind" in options:
            raise InputError("kind= would be the same for all concepts: write kinds={'name': 'continuous'}")
        options = {"dtype": dtype, **options}
        self.method = method
        self.whole: Fitter = make(x_dim, sum(self.concepts.values()), device=device, **options)
        """The fitter of all concepts, as the columns of one; its `moments` are all that is kept."""
        said = {name: {"kind": words[name]} if name in words else {} for name in self.concepts}
        self._parts = {name: _beside(self.whole, name, self.concepts[name], **kind) for name, kind in said.items()}
        self._whitening: Whitening | None = None

    @property
    def x_dim(self) -> int:
        """Width of x."""
        return self.whole.x_dim

    @property
    def moments(self) -> Moments:
        """All that is kept: moments of x with the columns of all concepts side by side."""
        return self.whole.moments

    @property
    def n(self) -> Tensor:
        """Number of rows seen, an int64 scalar."""
        return self.whole.n

    def options(self) -> dict[str, Any]:
        """Options of the method beyond what labels are, as plain data."""
        return {name: value for name, value in self.whole.options().items() if name != "kind"}

    def __repr__(self) -> str:
        return f"ConceptsFitter(x_dim={self.x_dim}, {self.concepts}, method={self.method!r}, n={self.moments.n})"

    # ---------------------------------------------------------------------------------------- gathering

    @classmethod
    def fit(
        cls,
        x: Any,
        z: Any,
        *,
        mask: Any = None,
        weight: Any = None,
        method: str = "leace",
        kinds: Mapping[str, Kind] | None = None,
        **options: Any,
    ) -> Self:
        """Make a fitter for this data, with as many classes as its labels have, and update it once.

        Args:
            x: `(..., d)` numbers.
            z: Name of a concept -> labels `(...)` or columns `(..., k)`; or a table with a column for each.
            mask: `(...)` booleans: rows to take, for all concepts.
            weight: `(...)` frequencies.
            method: As the constructor's.
            kinds: As the constructor's.
            options: As the constructor's.
        """
        named = _by_name(z)
        kinds = dict(kinds or {})
        check_names(kinds, named, "kinds", missing=False)
        rows, taken, weight_ = to_tensors(x, _one_mask(mask), weight)
        if rows.ndim == 0 or rows.numel() == 0:
            raise InputError(f"x has shape {tuple(rows.shape)}: there is nothing to fit on")
        check_same_rows(**{"x": x, "mask": mask, "weight": weight}, **{called(name): z for name, z in named.items()})
        labels = {}
        for name, values in named.items():
            kind = kinds.get(name, "auto")
            read = read_labels(values, tuple(rows.shape[:-1]), name=called(name), kind=kind, mask=taken)
            labels[name] = read if isinstance(values, Labels) else read.check(kind, taken)
        given = {"device": rows.device, "dtype": eraser_dtype(rows.dtype)} | options
        widths = {name: each.width for name, each in labels.items()}
        fitter = cls(rows.shape[-1], widths, method=method, kinds=kinds, **given)
        return fitter._take(rows, labels, taken, weight_, columns_of(x))

    def update(self, x: Any, z: Any, *, mask: Any = None, weight: Any = None) -> Self:
        """Take in a batch; on any error the statistics are as they were before the call.

        Args:
            x: `(..., d)` numbers on any device.
            z: Name of a concept -> labels `(...)` or columns `(..., k)`, all concepts in any order; or a table with a
                column for each.
            mask: `(...)` booleans: rows to take. It is one for all concepts: rows whose label of one is missing are
                left out of all, or that concept is fitted by itself.
            weight: `(...)` frequencies, not negative.

        Raises:
            InputError: If a concept is missing or unknown, or labels do not go with the rows; the text names it.
        """
        named = _by_name(z)
        check_names(named, self.concepts, "z")
        mask = _one_mask(mask)
        check_same_rows(**{"x": x, "mask": mask, "weight": weight}, **{called(name): z for name, z in named.items()})
        columns = self.whole._columns_with(x)
        x, mask, weight = to_tensors(x, mask, weight)
        labels = {name: self._read(name, named[name], tuple(x.shape[:-1]), mask) for name in self._parts}
        return self._take(x, labels, mask, weight, columns)

    def _take(
        self, x: Tensor, labels: dict[str, Labels], mask: Tensor | None, weight: Tensor | None, columns: tuple[str, ...]
    ) -> Self:
        """Add rows whose labels are decided."""
        side_by_side = [each.columns(self.concepts[name]) for name, each in labels.items()]
        wide = torch.complex128 if any(each.is_complex() for each in side_by_side) else torch.float64
        whole = torch.cat([each.to(self.moments.device, wide) for each in side_by_side], dim=-1)
        self.whole._take(x, Labels("z", "columns", whole), mask, weight)
        self.whole.columns, self._whitening = columns, None
        for name, part in self._parts.items():
            part._remember(labels[name])
        return self

    def _read(self, name: str, z: Any, lead: tuple[int, ...], mask: Tensor | None) -> Labels:
        part = self._parts[name]
        labels = read_labels(z, lead, name=called(name), kind=part.kind, mask=mask, classes=part.classes)
        part._check_as_before(labels)
        if part.decided is None and labels.kind == "continuous" and not isinstance(z, Labels):
            labels.check(part.kind, mask)
        return labels

    # ------------------------------------------------------------------------------------------ merging

    def merge(self, other: ConceptsFitter) -> Self:
        """Take in all that `other`, a fitter of the same concepts, method and options, has seen."""
        if not isinstance(other, ConceptsFitter):
            raise InputError(f"cannot merge {shown(other)} into {self!r}: give a fitter of the same concepts")
        if (mine := [*self.concepts.items()]) != (theirs := [*other.concepts.items()]):
            raise InputError(f"cannot merge concepts {dict(theirs)} into {dict(mine)}: name the same in the same order")
        self.whole.check_merging(other.whole)
        for name, part in self._parts.items():
            part.check_merging(other._parts[name])
        self.whole.merge(other.whole)
        self._whitening = None
        for name, part in self._parts.items():
            theirs = other._parts[name]
            part._told(theirs.decided, theirs.classes, (), theirs.label_columns)
        return self

    def __add__(self, other: ConceptsFitter) -> Self:
        return self.copy().merge(other)

    def all_reduce(self, group: Any = None) -> Self:
        """Have what the fitters of all processes of a group have seen together; as `Fitter.all_reduce`."""
        over = Group(group)
        about = {"concepts": [[*pair] for pair in self.concepts.items()]}
        told = over.told({**about, "parts": [part.knows() | part.options() for part in self._parts.values()]})
        same_in_all(told, "concepts", "make the same fitter in all processes")
        known = {}
        for i, (name, part) in enumerate(self._parts.items()):
            every = [each["parts"][i] for each in told]
            try:
                same_in_all(every, "kind", "write the same kinds= in all processes") if "kind" in every[0] else None
                known[part] = agreed(every)
            except InputError as error:
                raise InputError(f"{called(name)}: {error}") from None
        self.whole.all_reduce(group)
        self._whitening = None
        for part, found in known.items():
            part._told(*found)
        return self

    def copy(self) -> Self:
        """An independent fitter with the same statistics."""
        new = copy.copy(self)
        new.whole = self.whole.copy()
        new._parts = {name: copy.copy(part) for name, part in self._parts.items()}
        return new

    # ------------------------------------------------------------------------------------------ reading

    @property
    def erasers(self) -> Mapping[str, Any]:
        """Name -> the eraser of that concept, for what was seen so far: solved when it is asked for.

        Each is what a fitter of its own gives on these rows: sigma_xx has the same bits, and sigma_xz is summed beside
        other columns, which rounds otherwise. sigma_xx is factored once for all.

        Raises:
            InputError: When an eraser is asked for whose concept has the same value in all rows; the text names it.
        """
        return _Erasers(self)

    @property
    def joint(self) -> Any:
        """The eraser of all concepts at once: that of `join_concepts`, the columns of all side by side."""
        if self._shares:
            self.whole.whitening = self._whitened()  # type: ignore[attr-defined]
        try:
            return self.whole.eraser
        finally:
            if self._shares:
                self.whole.whitening = None  # type: ignore[attr-defined]

    def _eraser(self, name: str) -> Any:
        part = self._parts[name]
        if part._eraser is None:
            reader = copy.copy(part)
            reader.moments, reader.columns = self.moments._with_columns(self._slices[name]), self.whole.columns
            if self._shares:
                reader.whitening = self._whitened()  # type: ignore[attr-defined]
            part._eraser = reader.eraser
        return part._eraser

    @property
    def _slices(self) -> dict[str, slice]:
        found, start = {}, 0
        for name, width in self.concepts.items():
            found[name] = slice(start, start + width)
            start += width
        return found

    @property
    def _shares(self) -> bool:
        """Whether there is something to be solved for all concepts alike."""
        return isinstance(self.whole, LeaceFitter) and self.whole.second == "full"

    def _whitened(self) -> Whitening:
        found = self._whitening
        if found is None:
            with torch.inference_mode(False), torch.no_grad():
                found = self._whitening = self.whole.whitened()  # type: ignore[attr-defined]
        return found

    # -------------------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write statistics and options to a folder, atomically, to go on from later."""
        config, tensors = self.whole.saved()
        parts = [
            {"name": name, "width": self.concepts[name], **part.options(), **part.knows()}
            for name, part in self._parts.items()
        ]
        about = {"type": "ConceptsFitter", "method": self.method, "whole": config, "concepts": parts}
        save_folder(path, about, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Self:
        """Read what `save` wrote; further updates give the same result as if there had been no interruption.

        Raises:
            FileNotFoundError: If there is no such folder.
            FormatError: If it holds something else, or is damaged.
        """
        config, tensors = load_folder(path, expect="ConceptsFitter")
        device = check_device(device)
        with reading(path):
            method, about, parts = fields_of(config, method=str, whole=dict[str, Any], concepts=list[dict[str, Any]])
            make = _sharing(method)
            new = cls.__new__(cls)
            new.method, new._whitening = method, None
            new.whole = make._read(about, tensors, device, f"the fit in {os.fspath(path)}")
            new.concepts = checked_widths(dict(fields_of(part, name=str, width=int) for part in parts))
            if len(new.concepts) < len(parts) or sum(new.concepts.values()) != new.whole.z_dim:
                raise FormatError(f"its concepts have widths {new.concepts}, its sums {new.whole.z_dim} columns")
            new._parts = {part["name"]: _restored(new.whole, part) for part in parts}
            return new


class _UnknownError(InputError, KeyError):
    """A name that is none of the concepts, asked of a mapping."""

    __str__ = Exception.__str__


class _Erasers(Mapping[str, Any]):
    """Erasers by name, each solved when it is asked for."""

    def __init__(self, fitter: ConceptsFitter) -> None:
        self._fitter = fitter

    def __getitem__(self, name: str) -> Any:
        if name not in self._fitter.concepts:
            known = ", ".join(map(repr, self._fitter.concepts))
            hint = did_you_mean(name, self._fitter.concepts) if isinstance(name, str) else ""
            raise _UnknownError(f"no concept {shown(name)}: there are {known}{hint}")
        return self._fitter._eraser(name)

    def __contains__(self, name: object) -> bool:
        return name in self._fitter.concepts

    def __iter__(self) -> Iterator[str]:
        return iter(self._fitter.concepts)

    def __len__(self) -> int:
        return len(self._fitter.concepts)

    def __repr__(self) -> str:
        return f"<erasers of {', '.join(map(repr, self))}: solved when asked for>"


def called(name: str) -> str:
    """What to call the labels of a concept in messages."""
    return f"z[{name!r:.60}]"


def checked_widths(concepts: Mapping[str, int]) -> dict[str, int]:
    """Name -> width.

    Raises:
        InputError: If there is none, or a name or width is none.
    """
    if not concepts:
        raise InputError("no concepts were given: write {'name': width}, the number of classes or of columns of each")
    for name in concepts:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"a concept is called {name!r:.60}: give each a name, such as 'gender'")
    return {name: check_positive_int(width, f"concepts[{name!r:.60}]") for name, width in concepts.items()}


def check_names(given: Mapping[str, Any], known: Mapping[str, Any], what: str, *, missing: bool = True) -> None:
    """Refuse names that are not those of the concepts.

    Raises:
        InputError: If one is unknown or, if all are to be there, missing.
    """
    if unknown := [name for name in given if name not in known]:
        hint = did_you_mean(unknown[0], known) if isinstance(unknown[0], str) else ""
        raise InputError(
            f"{what} has {', '.join(map(shown, unknown[:5]))}, no concept of this fit: there are "
            f"{', '.join(map(repr, known))}{hint}"
        )
    if missing and (lacks := [name for name in known if name not in given]):
        raise InputError(
            f"{what} lacks {', '.join(map(repr, lacks[:5]))}: give labels of all concepts for the same rows, or fit "
            "those that others lack by themselves"
        )


def _by_name(z: Any) -> dict[str, Any]:
    """Labels by the name of their concept."""
    if isinstance(z, Mapping):
        return dict(z)
    if names := columns_of(z):
        return {name: z[name] for name in names}
    raise InputError(f"z is {shown(z)}: write {{'name': labels, ...}} with the labels of each concept, or a table")


def _one_mask(mask: Any) -> Any:
    if isinstance(mask, Mapping):
        raise InputError(
            "mask is one for all concepts, as they share the covariance of its rows: leave out of all the rows whose "
            "label of one is missing, mask=a & b, or fit a concept with rows of its own by itself"
        )
    return mask


def _sharing(method: str) -> Any:
    """The fitter of a method, if concepts can share what it keeps of the rows."""
    found = get_method(method, "rows")
    if not _can_share(found.fitter):
        names = ", ".join(m.name for m in methods("rows") if _can_share(m.fitter))
        raise InputError(
            f"method {method!r} keeps sums for each class, or none, so concepts share nothing: fit each by itself, or "
            f"choose one of {names}"
        )
    return found.fitter


def _can_share(fitter: Any) -> bool:
    return isinstance(fitter, type) and issubclass(fitter, Fitter) and not fitter.by_class


def _beside(whole: Fitter, name: str, width: int, **kind: Any) -> Any:
    """A fitter of one of the concepts: what it knows of its labels is its own, its sums are the whole's."""
    options: dict[str, Any] = whole.options() | {"dtype": whole.dtype} | kind
    new = type(whole)(1, 1, device="cpu", **options)
    new.x_dim, new.z_dim, new.of, new.unknown = whole.x_dim, width, called(name), whole.unknown
    return new


def _restored(whole: Fitter, saved: Mapping[str, Any]) -> Fitter:
    """A fitter of one of the concepts, as it was saved."""
    name, width, label_columns = fields_of(saved, name=str, width=int, label_columns=tuple[str, ...])
    kind = {"kind": saved["kind"]} if "kind" in saved else {}
    new = _beside(whole, name, width, **kind)
    decided = decoded(saved["decided"], {}, Any, "decided")
    if decided not in (None, "categorical", "continuous", "columns"):
        raise FormatError(f"its concept {name!r:.60} was decided to be {decided!r:.60}, which stands for nothing")
    new._told(
        decided, decoded(saved["classes"], {}, tuple[str | int | float | bool, ...], "classes"), (), label_columns
    )
    return new
