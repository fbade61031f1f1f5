"""Where text enters a denoiser: keys and values by role, and the layers that first read the embedding. All is measured.

One pass of the denoiser over small latents shows how many rows each projection is given: those of the text, those of
the picture, or both. Only which end of a joint sequence is the text is a table.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.doors import check_call
from efface.core.hooks import look_before
from efface.pipelines.components import forward_parameters
from efface.pipelines.embedding import PromptEmbedding

Role = Literal["to_k", "to_v", "add_k_proj", "add_v_proj"]
ROLES: tuple[Role, ...] = ("to_k", "to_v", "add_k_proj", "add_v_proj")
TEXT_LAST = ("HunyuanVideo",)
"""Beginnings of class names of denoisers that put the text behind the picture in a joint sequence."""


@dataclass(frozen=True)
class KeyValueLayer:
    """A linear layer that makes keys or values of text.

    Attributes:
        path: Path of the layer, as in `denoiser.named_modules()`.
        module: The layer.
        role: `"to_k"` or `"to_v"`; `"add_k_proj"` or `"add_v_proj"` in joint attention with weights of the text's own.
        reads: `"text"`: its rows are the text's; `"joint"`: text and picture in one sequence, the same weights.
        text_first: Where the text is in a joint sequence.
        width_in: Width of its input.
        width_out: Width of keys and values.
        encoders: Names of the text encoders whose rows it reads.
        denoiser: Name of the denoiser that it belongs to.
    """

    path: str
    module: nn.Module
    role: Role
    reads: Literal["text", "joint"]
    text_first: bool
    width_in: int
    width_out: int
    encoders: tuple[str, ...]
    denoiser: str

    @property
    def text_alone(self) -> bool:
        """Whether its rows depend on the prompt alone.

        Those with weights of the text's own in joint attention (`add_k_proj`) read rows that have met the picture.
        """
        return self.reads == "text" and self.role in ("to_k", "to_v")

    def text_rows(self, x: Tensor, rows: int) -> Tensor:
        """The rows of text in an input or output of the layer, (n, rows, width); a view.

        Args:
            x: (n, all rows, width).
            rows: How many rows the text has.
        """
        check_call(KeyValueLayer.text_rows, locals())
        if self.reads == "text":
            return x
        return x[:, :rows] if self.text_first else x[:, -rows:]


@dataclass(frozen=True)
class ContextEmbedder:
    """A layer that reads the embedding as it comes from the text encoders.

    Attributes:
        path: Path of the layer in the denoiser.
        module: The layer.
        reads: `"sequence"` or `"pooled"`.
        encoders: Names of the text encoders that it reads.
        denoiser: Name of the denoiser that it belongs to.
    """

    path: str
    module: nn.Module
    reads: Literal["sequence", "pooled"]
    encoders: tuple[str, ...]
    denoiser: str


@contextmanager
def inputs_of(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Name -> the tensor that each module is given by this thread, the last one, filled while the block runs."""
    found: dict[str, Tensor] = {}
    own = threading.get_ident()
    with ExitStack() as stack:
        for name, module in modules.items():

            def keep(_module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                if args and isinstance(args[0], Tensor) and threading.get_ident() == own:
                    found[name] = args[0]

            stack.callback(look_before(module, keep))
        yield found


def candidates(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Path -> layer of everything that could read text: leaves with a weight matrix."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if not any(True for _ in module.children()) and getattr(getattr(module, "weight", None), "ndim", 0) == 2
    }


def key_value_layers(
    denoiser: nn.Module, name: str, inputs: Mapping[str, Tensor], embedding: PromptEmbedding
) -> list[KeyValueLayer]:
    """The key and value projections that are given rows of text.

    Args:
        denoiser: The denoiser.
        name: Its name.
        inputs: What each of `candidates(denoiser)` was given.
        embedding: What the denoiser was given.

    Raises:
        InputError: If there are none.
    """
    rows = embedding.sequence.shape[1]
    encoders = tuple(slot.encoder for slot in embedding.layout if slot.in_sequence)
    found: list[KeyValueLayer] = []
    for attention, block in _attentions(denoiser):
        for role in ROLES:
            path = f"{attention}.{role}"
            x = inputs.get(path)
            if x is None or x.ndim != 3:
                continue
            reads = _reads(denoiser, attention, block, role, inputs, rows)
            if reads is not None:
                module = denoiser.get_submodule(path)
                weight: Any = module.weight
                out, width = weight.shape
                first = not type(denoiser).__name__.startswith(TEXT_LAST)
                found.append(KeyValueLayer(path, module, role, reads, first, width, out, encoders, name))
    if not found:
        raise InputError(
            f"no keys or values of text were found in {type(denoiser).__name__}: none of its layers named "
            f"{', '.join(ROLES)} is given {rows} rows of text"
        )
    return found


def ambiguous(denoiser: nn.Module, inputs: Mapping[str, Tensor], rows: int) -> bool:
    """Whether some attention over the picture alone had as many rows as the text, so that the two look alike."""
    queries = [
        inputs[f"{a}.to_q"] for a, block in _attentions(denoiser) if f"{a}.to_q" in inputs and _joins(denoiser, block)
    ]
    return any(x.ndim == 3 and x.shape[1] == rows for x in queries)


def _attentions(denoiser: nn.Module) -> Iterator[tuple[str, str]]:
    """Paths of attention layers, and of the block that each is in."""
    for path, module in denoiser.named_modules():
        if all(isinstance(getattr(module, role, None), nn.Module) for role in ("to_k", "to_v")):
            yield path, path.rpartition(".")[0]


def _joins(denoiser: nn.Module, block: str) -> bool:
    """Whether a block is given both the picture and the text."""
    return {"hidden_states", "encoder_hidden_states"} <= set(forward_parameters(denoiser.get_submodule(block)))


def _reads(
    denoiser: nn.Module, attention: str, block: str, role: str, inputs: Mapping[str, Tensor], rows: int
) -> Literal["text", "joint"] | None:
    if not _joins(denoiser, block):
        return None  # attention of text to itself, before it meets the picture
    given = inputs[f"{attention}.{role}"].shape[1]
    if role.startswith("add_"):
        return "text" if given == rows else None
    query = inputs.get(f"{attention}.to_q")
    queries = given if query is None or query.ndim != 3 else query.shape[1]
    if given == rows and queries != rows:
        return "text"
    apart = any(_text_of_its_own(inputs, other, rows) for other, where in _attentions(denoiser) if where == block)
    return "joint" if given == queries and given > rows and not apart else None


def _text_of_its_own(inputs: Mapping[str, Tensor], attention: str, rows: int) -> bool:
    added, key, query = (inputs.get(f"{attention}.{role}") for role in ("add_k_proj", "to_k", "to_q"))
    if added is not None and added.ndim == 3 and added.shape[1] == rows:
        return True
    crossed = key is not None and query is not None and key.shape[1] != query.shape[1]
    return crossed and key is not None and key.shape[1] == rows


def context_embedders(
    name: str, layers: Mapping[str, nn.Module], inputs: Mapping[str, Tensor], embedding: PromptEmbedding
) -> list[ContextEmbedder]:
    """The layers whose input is the embedding itself, key and value projections left out."""
    found = []
    for path, x in inputs.items():
        if path.rpartition(".")[2] in ROLES:
            continue
        for reads in ("sequence", "pooled"):
            value: Tensor | None = getattr(embedding, reads)
            if value is not None and _is_given(x, value):
                inside = "in_sequence" if reads == "sequence" else "in_pooled"
                encoders = tuple(s.encoder for s in embedding.layout if getattr(s, inside))
                found.append(ContextEmbedder(path, layers[path], reads, encoders, name))
    return found


def _is_given(x: Tensor, value: Tensor) -> bool:
    """Whether an input is the value; or begins with it, as where SDXL puts sizes behind the pooled vector."""
    if x.ndim != value.ndim or x.shape[:-1] != value.shape[:-1] or x.shape[-1] < value.shape[-1]:
        return False
    if x.ndim == 3 and x.shape != value.shape:
        return False
    return torch.equal(x[..., : value.shape[-1]], value.to(x.dtype)) and bool(value.any())
