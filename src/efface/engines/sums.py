"""Sums of rows, whatever reads them: a fitter that is made for the first, and what is said of it afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_finite
from efface.core.config import Config
from efface.core.method import Method
from efface.erasers.base import eraser_dtype
from efface.streams.concepts import Concept, joint, joint_kind
from efface.streams.inputs import Inputs, Piece
from efface.streams.ranges import Gatherer
from efface.streams.source import shortened


class Sums:
    """What is kept of rows as they go by.

    Args:
        inputs: Whose rows they are.
        method: Of rows.
        concepts: What is erased.
        config: The method's options.
        device: Where sums live, and are formed.
        ranges: Gathers what the columns are like; None does without.

    Attributes:
        fitter: Has seen the rows; None before the first.
        end: Number of rows up to here, those left out too.
    """

    def __init__(
        self,
        inputs: Inputs,
        method: Method,
        concepts: Sequence[Concept],
        config: Config,
        *,
        device: str | torch.device | None = None,
        ranges: Gatherer | None = None,
    ) -> None:
        self._inputs, self._method, self._concepts, self._config = inputs, method, concepts, config
        self._device, self._ranges = device, ranges
        self.fitter: Any = None
        self.end = 0

    def update(self, piece: Piece, x: Tensor) -> None:
        """Take in some rows.

        Raises:
            InputError: If a value cannot be used; the text says in which row of the whole file.
        """
        z = joint(self._concepts, piece.labels, piece.chunk.index)
        if self.fitter is None:
            self.fitter = new_fitter(self._method, x, self._concepts, self._config, device=self._device)
        try:
            self.fitter.update(x, z)
        except InputError:
            check_finite(x, self._inputs.x.where, index=piece.chunk.index)
            names = " and ".join(labels.spec for labels in self._inputs.labels)
            check_finite(z, names, index=piece.chunk.index)
            raise
        if self._ranges is not None:
            self._ranges.update(x)
        self.end = piece.end


def check_method(method: Method, concepts: Sequence[Concept]) -> None:
    """Refuse a method that takes one concept with classes, where these are others.

    Raises:
        InputError: If so.
    """
    if "continuous" in method.concepts or (len(concepts) == 1 and concepts[0].kind == "categorical"):
        return
    raise InputError(
        f"{method.name} takes one concept with classes, got {'; '.join(map(str, concepts))}: write method='leace' "
        "(--method leace), or kind='categorical' (--kind categorical)"
    )


def new_fitter(
    method: Method, x: Tensor, concepts: Sequence[Concept], config: Config, *, device: str | torch.device | None = None
) -> Any:
    """A fitter of a method for rows like `x` `(n, d)`.

    Args:
        method: Of rows.
        x: Some rows, which give width and dtype.
        concepts: What is erased.
        config: The method's options.
        device: Where sums live.
    """
    options = {option.name: getattr(config, option.name) for option in config.options()}
    options |= {"kind": joint_kind(concepts), "dtype": eraser_dtype(x.dtype), "device": device}
    return method.fitter(x.shape[1], sum(concept.width for concept in concepts), **options)


def engine_of(name: str, fitter: Any, concepts: Sequence[Concept], **more: Any) -> dict[str, Any]:
    """What the provenance of an eraser says of the engine, the rows, and what the concepts are."""
    said = [{"name": each.name, "kind": each.kind, "classes": [*each.classes]} for each in concepts]
    return {
        "engine": {"name": name, **more, "parts": more.get("parts", 1), "rows": int(fitter.n.sum()), "concepts": said}
    }


def classes_of(concepts: Sequence[Concept]) -> tuple[Any, ...]:
    """What the numbers of the classes stand for, where they were not numbers from 0 already."""
    if len(concepts) != 1 or concepts[0].kind != "categorical":
        return ()
    classes = tuple(concepts[0].classes)
    return () if all(value == i and not isinstance(value, str) for i, value in enumerate(classes)) else classes


def with_means(inputs: Inputs, gathered: Gatherer) -> Inputs:
    """The inputs with the means of the features that were gathered over all rows.

    Raises:
        InputError: If a feature has no value at all.
    """
    columns = gathered.columns()
    if columns is None:
        raise InputError(f"{inputs.x.where} has no numbers that have a mean: write missing='drop' (--missing drop)")
    empty = [i for i, low in enumerate(columns.low.tolist()) if low == math.inf]
    if empty:
        one_each = len(columns.low) == len(inputs.features)
        names = shortened([inputs.features[i] if one_each else f"number {i} of {inputs.features[0]}" for i in empty])
        raise InputError(f"{inputs.x.where}: {names} has no value at all: leave it out (--exclude)")
    return replace(inputs, means=columns.mean)
