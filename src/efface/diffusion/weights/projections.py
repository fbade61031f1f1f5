"""The matrices through which text enters a denoiser, by what they read: those with the same rows share one solution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.weights import Add, Change, LowRank, Multiply, WeightDelta
from efface.diffusion.weights.erasure import delta_of
from efface.pipelines.attention import KeyValueLayer
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView

Layers = Literal["auto", "keys-and-values", "keys", "values", "context"]
"""Which matrices are edited.

`"keys-and-values"`, `"keys"`, `"values"`: the projections of cross-attention; `"context"`: the layers that first read
the text encoders' rows and pooled vectors. `"auto"`: those of cross-attention where they see the prompt alone, or else,
as in joint attention (SD3, FLUX, CogVideoX, HunyuanVideo), the context's.
"""

LAYERS_HELP = "which matrices: keys and values, or where these see the picture too (SD3, FLUX) what first reads text"

VALUES_HELP = "which matrices: values, or where these see the picture too (SD3, FLUX) what first reads text"

_ROLES: dict[str, tuple[str, ...]] = {"keys-and-values": ("to_k", "to_v"), "keys": ("to_k",), "values": ("to_v",)}


@dataclass(frozen=True, eq=False)
class Stream:
    """Matrices of one denoiser that read the same rows.

    Attributes:
        part: Name of the denoiser.
        matrices: Path -> the layer, whose weight is `(out, width)`.
        width: Width of the rows; a layer may read more behind them, as SDXL's sizes behind the pooled vector.
        source: Which rows: `"sequence"`, `"pooled"`, or the path of a layer, where something lies between the text
            encoders' rows and the layers.
    """

    part: str
    matrices: Mapping[str, nn.Module]
    width: int
    source: str

    @property
    def pooled(self) -> bool:
        """Whether its rows are one vector a prompt."""
        return self.source == "pooled"

    @property
    def weights(self) -> dict[str, Tensor]:
        """Path -> `(out, width)`, the columns that read the rows; as they are now, in their own dtype."""
        found = {}
        for path, module in self.matrices.items():
            weight: Any = module.weight
            if not weight.is_floating_point() or weight.device.type == "meta":
                raise InputError(
                    f"{path} of {self.part} holds {weight.dtype} on {weight.device}, which no edit can be computed "
                    "from: load the model unquantised and without offloading"
                )
            found[path] = weight.detach()[:, : self.width]
        return found

    def only(self, path: str) -> Stream:
        """One of its matrices."""
        return replace(self, matrices={path: self.matrices[path]})

    def changes(self, change_of: Callable[[Tensor], Change]) -> dict[str, Change]:
        """Name of each parameter -> its change, of the weight's full width.

        Args:
            change_of: Gives the change of a weight `(out, width)`.
        """
        return {f"{path}.weight": self._widened(path, change_of(weight)) for path, weight in self.weights.items()}

    def additions(self, solved: Mapping[str, Tensor]) -> dict[str, Change]:
        """Name of each parameter -> what is added to it; at least float32.

        Args:
            solved: Path -> `(out, width)`.
        """
        found: dict[str, Change] = {}
        for path, weight in self.weights.items():
            value = solved[path].to(weight.device, torch.promote_types(weight.dtype, torch.float32))
            found[f"{path}.weight"] = self._widened(path, Add(value))
        return found

    def _widened(self, path: str, change: Change) -> Change:
        """A change with zeros for the columns behind those that read the rows."""
        weight: Any = self.matrices[path].weight
        more = (0, weight.shape[1] - self.width)
        if more == (0, 0) or isinstance(change, Multiply):  # which is from the left
            return change
        if isinstance(change, LowRank):
            return replace(change, down=F.pad(change.down, more))
        return replace(change, value=F.pad(change.value, more))


def streams_of(view: PipelineView, layers: Layers) -> tuple[Stream, ...]:
    """The matrices to edit, those with the same rows together.

    Args:
        view: The pipeline.
        layers: Which.

    Raises:
        InputError: If the pipeline has none of these, or they read the picture too.
    """
    plain = all(layer.text_alone for layer in view.key_value_layers())
    if layers == "context" or (layers == "auto" and not plain):
        return _context(view)
    if not plain:
        raise InputError(
            f"keys and values of {type(view.denoiser).__name__} are made of text and picture together, step by step, "
            "so no edit of them in closed form is defined: write layers='context' (or 'auto')"
        )
    return _attention(view, _ROLES["keys-and-values" if layers == "auto" else layers])


def with_layers(layers: Layers, default: Layers, view: PipelineView) -> Layers:
    """`"auto"` as another choice, where the pipeline's keys and values see the prompt alone."""
    plain = all(layer.text_alone for layer in view.key_value_layers())
    return default if layers == "auto" and plain else layers


def _attention(view: PipelineView, roles: Sequence[str]) -> tuple[Stream, ...]:
    probe = view.text.reference.replace(negative=None)
    found: list[Stream] = []
    for part in view.components.denoisers:
        layers = [each for each in view.key_value_layers() if each.denoiser == part and each.role in roles]
        inputs = view.key_value_inputs(probe, denoiser=part)
        groups: list[tuple[Tensor, list[KeyValueLayer]]] = []
        for layer in layers:
            x = inputs[layer.path]
            mates = next((group for given, group in groups if _same(given, x)), None)
            if mates is None:
                groups.append((x, mates := []))
            mates.append(layer)
        for x, mates in groups:
            source = "sequence" if _same(x, probe.sequence) else mates[0].path
            found.append(Stream(part, {m.path: m.module for m in mates}, mates[0].width_in, source))
    if not found:
        raise InputError(f"{type(view.pipe).__name__} has no layers {' or '.join(roles)} of text")
    return tuple(found)


def _context(view: PipelineView) -> tuple[Stream, ...]:
    example, found = view.example, []
    for embedder in view.context_embedders():
        value: Any = getattr(example, embedder.reads)
        found.append(Stream(embedder.denoiser, {embedder.path: embedder.module}, value.shape[-1], embedder.reads))
    if not found:
        raise InputError(
            f"{type(view.pipe).__name__} has no layer that reads the text encoders' rows but its keys and values: "
            "write layers='keys-and-values' (or 'auto')"
        )
    return tuple(found)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b.to(a))


def rows_read(view: PipelineView, streams: Iterable[Stream], embedding: PromptEmbedding) -> list[Tensor]:
    """What each stream reads of n prompts, `(n, rows, width)` float64; a pooled vector is one row.

    Args:
        view: The pipeline.
        streams: Of it.
        embedding: n prompts.
    """
    inputs: dict[str, dict[str, Tensor]] = {}
    found = []
    for stream in streams:
        if stream.source == "pooled":
            pooled: Any = embedding.pooled
            x = pooled[:, None]
        elif stream.source == "sequence":
            x = embedding.sequence
        else:
            if stream.part not in inputs:
                inputs[stream.part] = view.key_value_inputs(embedding, denoiser=stream.part)
            x = inputs[stream.part][stream.source]
        found.append(_double(x.detach()))
    return found


def _double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # mps has no float64


def deltas_of(view: PipelineView, changes: Iterable[tuple[Stream, Mapping[str, Change]]]) -> dict[str, WeightDelta]:
    """Part of the pipeline -> how it changes, from the changes of each stream.

    Args:
        view: The pipeline.
        changes: Of each stream, name of a parameter -> its change.
    """
    found: dict[str, dict[str, Change]] = {}
    for stream, each in changes:
        found.setdefault(stream.part, {}).update(each)
    return {part: delta_of(view.components.denoisers[part], each) for part, each in found.items()}
