"""A compact cross-attention classifier of embedded prompts: has a prompt the concept, and which way leads out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import InputError
from efface._text import brief

EPS = 1e-5
TRAINED = ("w_q", "w_k", "w_v", "w_o", "w_1", "w_2", "b_q", "b_v", "b_o", "b_1", "b_2", "gain", "shift")
"""The weights that training changes; each has a member as its first index."""


def _shapes(members: int, d: int, w: int) -> dict[str, tuple[int, ...]]:
    inputs = {name: (d, w) for name in ("w_q", "w_k", "w_v")} | {"w_o": (w, w), "w_1": (w, w), "b_2": ()}
    return {name: (members, *inputs.get(name, (w,))) for name in TRAINED}


@dataclass(frozen=True, eq=False)
class ConceptClassifier:
    """Cross-attention from a concept's embedding to a prompt's; several small members whose logits are averaged.

    Rows x are centred and scaled, `x' = (x - centre) / scale`. Of each member, with heads of `width / heads`:
    `q = concept' W_q`, `k = x' W_k`, `v = x' W_v`, `h = mean over q of LN(softmax(q k^T / sqrt(width / heads)) v W_o)`,
    and `logit = gelu(h W_1 + b_1) w_2 + b_2`. A call gives `a mean(logit) + b` with Platt's a and b. There are no
    positions: a prompt may have any number of rows.

    Does not guarantee: anything on prompts unlike those it was trained on, or that its gradient takes the concept out
    of what a denoiser makes of a prompt.

    Source: "a compact cross-attention classifier" on (concept embedding, prompt embedding) is all that is known to us
    of arXiv:2511.05865; layers, sizes and members are ours.

    Attributes:
        weights: The members' weights, side by side; `concept`, its rows as they were encoded, `(k, d)`; `centre` `(d,)`
            and `scale`, the root mean square of centred rows; `platt`, a and b.
        heads: Heads of the attention.
    """

    weights: Mapping[str, Tensor]
    heads: int

    __repr__ = brief

    def __post_init__(self) -> None:
        if missing := {*TRAINED, "concept", "centre", "scale", "platt"} - set(self.weights):
            raise InputError(f"a classifier has no tensor {min(missing)!r}")
        d = self.weights["concept"].shape[-1]
        wanted = _shapes(self.members, d, self.width) | {"centre": (d,), "scale": (), "platt": (2,)}
        for name, shape in wanted.items():
            if (found := tuple(self.weights[name].shape)) != shape or self.width % self.heads:
                raise InputError(f"a classifier's tensors do not fit: {name} is {found}, expected {shape}")

    @property
    def members(self) -> int:
        """How many members."""
        return self.weights["w_2"].shape[0]

    @property
    def width(self) -> int:
        """Width of each."""
        return self.weights["w_2"].shape[-1]

    @classmethod
    def drawn(
        cls, concept: Tensor, rows: Tensor, generator: torch.Generator, *, width: int, heads: int, members: int
    ) -> ConceptClassifier:
        """A new one: weights of variance 1 / inputs, biases 0, gains 1; centre and scale are those of rows `(n, d)`."""
        weights = {}
        for name, shape in _shapes(members, concept.shape[-1], width).items():
            drawn = torch.randn(shape, generator=generator) / shape[1] ** 0.5 if name.startswith("w_") else None
            constant = torch.full(shape, 1.0 if name == "gain" else 0.0)
            weights[name] = (constant if drawn is None else drawn).to(rows.device)
        centre = rows.mean(0)
        scale = (rows - centre).square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        platt = torch.tensor([1.0, 0.0], device=rows.device)
        concept = concept.detach().float().to(rows.device, copy=True)
        return cls(weights | {"concept": concept, "centre": centre, "scale": scale, "platt": platt}, heads)

    def having(self, weights: Mapping[str, Tensor]) -> ConceptClassifier:
        """The same with other weights of some names."""
        return replace(self, weights={**self.weights, **weights})

    def on(self, device: torch.device) -> ConceptClassifier:
        """The same on a device, ready to be differentiated through."""
        with torch.inference_mode(False):  # tensors of inference mode could not be in a gradient
            found = {k: (v.clone() if v.is_inference() else v).to(device) for k, v in self.weights.items()}
        return self if all(found[name] is value for name, value in self.weights.items()) else self.having(found)

    def logits(self, x: Tensor, keep: Tensor) -> Tensor:
        """Logits of the members before Platt's scaling, `(n, members)`.

        Args:
            x: Embeddings `(n, rows, d)`, float32.
            keep: Rows that count, `(n, rows)` booleans; each prompt has one at least.
        """
        w, (n, rows, _), split = self.weights, x.shape, (self.heads, self.width // self.heads)
        x = (x - w["centre"]) / w["scale"]
        q = torch.einsum("kd,mdw->mkw", (w["concept"] - w["centre"]) / w["scale"], w["w_q"]) + w["b_q"][:, None]
        # A bias of the keys adds the same to all of a query's scores: softmax does not see it.
        k = torch.einsum("nrd,mdw->nmrw", x, w["w_k"]).view(n, self.members, rows, *split)
        v = (torch.einsum("nrd,mdw->nmrw", x, w["w_v"]) + w["b_v"][:, None]).view(n, self.members, rows, *split)
        q = q.view(self.members, -1, *split)
        scores = torch.einsum("mkhs,nmrhs->nmhkr", q, k) / split[1] ** 0.5
        weights = scores.masked_fill(~keep[:, None, None, None, :], -torch.inf).softmax(-1)
        h = torch.einsum("nmhkr,nmrhs->nmkhs", weights, v).flatten(-2)
        h = torch.einsum("nmkw,mwu->nmku", h, w["w_o"]) + w["b_o"][:, None]
        h = F.layer_norm(h, (self.width,), eps=EPS) * w["gain"][:, None] + w["shift"][:, None]
        h = F.gelu(torch.einsum("nmw,mwu->nmu", h.mean(2), w["w_1"]) + w["b_1"])
        return (h * w["w_2"]).sum(-1) + w["b_2"]

    def __call__(self, x: Tensor, keep: Tensor) -> Tensor:
        """Calibrated logits of the concept, `(n,)`; `sigmoid` of them are probabilities. Arguments as of `logits`."""
        a, b = self.weights["platt"]
        return a * self.logits(x, keep).mean(1) + b
