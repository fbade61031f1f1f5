"""What an audit needs of a thing, as protocols, and how far inside each reaches: its level of access.

A view of a pipeline, a module, an array or a file satisfies them by what it can do; nothing is imported or inherited,
so that no audit depends on how a subject is read, nor on an eraser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

Access = Literal["rows", "prompts", "embeddings", "latents", "gradients", "weights"]
ACCESS: tuple[Access, ...] = get_args(Access)
"""Levels of access, from outside to inside."""


@runtime_checkable
class Rows(Protocol):
    """An array or tensor of numbers `(n, d)`: access to rows."""

    @property
    def shape(self) -> Any:
        """`(n, d)`."""
        ...

    def __getitem__(self, index: Any, /) -> Any: ...


@runtime_checkable
class StreamsRows(Protocol):
    """A file or stream that gives its rows in chunks: access to rows."""

    def chunks(self, rows: int, *, start: int = 0) -> Iterator[Any]:
        """At most `rows` at a time, from row `start` on."""
        ...


@runtime_checkable
class DrawsPrompts(Protocol):
    """Prompts and seeds -> images `(n, 3, h, w)` or films in [0, 1]: access to prompts."""

    def sample(self, prompts: Any, seeds: Any, /, **options: Any) -> Tensor:
        """One image for each pair of prompt and seed."""
        ...


@runtime_checkable
class EncodesPrompts(Protocol):
    """Prompts -> what the text encoders make of them, which can be changed and drawn from: access to embeddings."""

    def encode(self, prompts: Any, /, **options: Any) -> Any:
        """The prompts as a batch of embeddings."""
        ...

    # Texts and tokenizers have an `encode` too, so that alone would say nothing.
    def check_embedding(self, embedding: Any, /) -> None:
        """Refuse embeddings that it cannot draw from."""
        ...


@runtime_checkable
class HoldsLatents(Protocol):
    """Noisy latents, a timestep and an embedding -> the prediction of the denoiser: access to latents."""

    def denoise(self, latents: Tensor, t: Any, embedding: Any, /, **options: Any) -> Tensor:
        """The prediction for each latent, of its shape."""
        ...


@runtime_checkable
class HasSites(Protocol):
    """A module whose hidden states can be read and changed by name: access to gradients and weights."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Each module within it, by path."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Each weight, by path."""
        ...


@runtime_checkable
class HasComponents(Protocol):
    """Something made of modules, as a pipeline is: access to gradients and weights."""

    @property
    def components(self) -> Any:
        """The modules by role or name."""
        ...


@runtime_checkable
class PipelineSubject(DrawsPrompts, EncodesPrompts, Protocol):
    """What audits of a pipeline ask for, as a view of one has it: access to prompts and embeddings."""

    @property
    def pipe(self) -> Any:
        """The pipeline itself, on which an erasure is put."""
        ...

    def check_concept(self, concept: Any, /) -> None:
        """Refuse a concept with words or prompts that it cannot read."""
        ...


_GRANTS: Mapping[type, tuple[Access, ...]] = {
    Rows: ("rows",),
    StreamsRows: ("rows",),
    DrawsPrompts: ("prompts",),
    EncodesPrompts: ("embeddings",),
    HoldsLatents: ("latents",),
    HasSites: ("gradients", "weights"),
    HasComponents: ("gradients", "weights"),
}


def access_of(subject: Any) -> tuple[Access, ...]:
    """The levels of access that a subject offers by what it can do, from outside to inside.

    Does not guarantee: that it does well what its methods are called; an access that it has by its calls alone, as a
    classifier has, is not found.

    >>> import numpy as np
    >>> access_of(np.zeros((3, 2))), access_of("a sentence about rows")
    (('rows',), ())
    """
    if isinstance(subject, Tensor) and subject.is_nested:  # rows of different lengths, which have no shape
        return ()
    granted = {level for protocol, levels in _GRANTS.items() if _is(subject, protocol) for level in levels}
    return tuple(level for level in ACCESS if level in granted)


def _is(subject: Any, protocol: type) -> bool:
    """Whether it has what a protocol names; what fails when it is asked for, as in pipelines of diffusers, it has not.

    >>> _is([1.0], Rows)
    False
    """
    try:
        return isinstance(subject, protocol)
    except Exception:  # the subject's own __getattr__, which may raise anything
        return False
