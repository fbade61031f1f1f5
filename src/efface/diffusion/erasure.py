"""The protocol of every eraser of a pipeline, whether it edits text, weights or guidance."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from torch import Tensor

from efface._errors import FormatError, InputError
from efface._io import load_folder, save_folder
from efface.diffusion.spec import Concepts, ErasureSpec
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView


class Erasure(ABC):
    """A fitted erasure of one concept or several, to be put on pipelines and taken off again.

    A method is a subclass with `fit`, `_install` and, if it keeps more than its specs, `config` and `tensors` (what is
    saved) and `_restore` (the way back); it registers itself in its own file as a `Method` of kind `"diffusion"`.

    Attributes:
        method: Name of the method in the registry.
        specs: What was erased, a spec a concept.

    Does not guarantee: that the concept is gone; see `efface.audit`.
    """

    method: ClassVar[str]

    def __init__(self, specs: ErasureSpec | Sequence[ErasureSpec]) -> None:
        self.specs = ErasureSpec.each(specs)
        self._counts: dict[str, int] = {}
        self._on: dict[int, tuple[Any, Callable[[], None]]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.targets))})"

    @property
    def spec(self) -> ErasureSpec:
        """What was erased; of several concepts, the first."""
        return self.specs[0]

    @property
    def targets(self) -> tuple[str, ...]:
        """The concepts' names."""
        return tuple(spec.target for spec in self.specs)

    @classmethod
    @abstractmethod
    def fit(cls, pipe: Any, spec: Concepts, **options: Any) -> Self:
        """Learn to erase concepts from a pipeline, which is left as it is.

        A method for several takes `ErasureSpec.each(spec)`, one for a single concept `ErasureSpec.of(spec)`.
        """

    @abstractmethod
    def _install(self, view: PipelineView) -> Callable[[], None]:
        """Put the erasure on a pipeline; what is returned takes it off. If it raises, nothing may be left."""

    def apply_(self, pipe: Any) -> Self:
        """Put the erasure on a pipeline for good, until `undo_`.

        Raises:
            InputError: If it is on this pipeline already, or the pipeline does not suit it.
        """
        view = PipelineView.of(pipe)
        if id(view.pipe) in self._on:
            raise InputError(f"{self!r} is on this {type(view.pipe).__name__} already: call undo_(pipe) first")
        self._on[id(view.pipe)] = (view.pipe, self._install(view))
        return self

    def undo_(self, pipe: Any) -> Self:
        """Take the erasure off a pipeline again; other erasures on it stay.

        Raises:
            InputError: If it is not on this pipeline.
        """
        pipe = pipe.pipe if isinstance(pipe, PipelineView) else pipe
        if id(pipe) not in self._on:
            raise InputError(f"{self!r} is not on this {type(pipe).__name__}: nothing to undo")
        self._on.pop(id(pipe))[1]()
        return self

    @contextmanager
    def applied(self, pipe: Any) -> Iterator[Self]:
        """The erasure on a pipeline for the length of a block."""
        self.apply_(pipe)
        try:
            yield self
        finally:
            self.undo_(pipe)

    def count(self, event: str, n: int = 1) -> None:
        """Note that something happened `n` times; see `report`."""
        self._counts[event] = self._counts.get(event, 0) + n

    @property
    def report(self) -> dict[str, Any]:
        """Plain data: the method, the specs, and how often what fired since it was fitted or loaded."""
        return {"method": self.method, "specs": [spec.to_dict() for spec in self.specs], "fired": dict(self._counts)}

    def config(self) -> dict[str, Any]:
        """Plain data to save besides the spec."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to save."""
        return {}

    @classmethod
    def _restore(cls, specs: Sequence[ErasureSpec], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The erasure of these data."""
        return cls(specs)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Save to a folder with `config.json` and `model.safetensors`."""
        specs = [spec.to_dict() for spec in self.specs]
        config = {"type": type(self).__name__, "method": self.method, "specs": specs, **self.config()}
        save_folder(path, config, self.tensors())

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Self:
        """What `save_pretrained` wrote.

        Raises:
            FileNotFoundError: If there is no such folder.
            FormatError: If it holds something else, or is damaged.
        """
        config, tensors = load_folder(path, expect=cls.__name__)
        try:
            return cls._restore(ErasureSpec.each(config["specs"]), config, tensors)
        except (KeyError, TypeError, InputError) as error:
            raise FormatError(f"{path} is damaged: {error}") from error


class GatedErasure(Erasure):
    """An erasure that reads each prompt's embedding and acts on it, or leaves it alone bit for bit."""

    @abstractmethod
    def reading(self, embedding: PromptEmbedding) -> Tensor:
        """What the gate reads of each concept in each prompt, `(n, concepts)`; above 0 it acts."""
