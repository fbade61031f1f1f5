"""A compact cross-attention classifier of embedded prompts: has a prompt the concept, and which way leads out of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import InputError
from efface._validate import check_positive_int

EPS = 1e-5


class ConceptClassifier(nn.Module):
    """Cross-attention from a concept's embedding to a prompt's; several small members whose logits are averaged.

    Rows x are centred and scaled, `x' = (x - centre) / scale`. Of each member, with heads of `width / heads`:
    `q = concept' W_q`, `k = x' W_k`, `v = x' W_v`, `h = mean over q of LN(softmax(q k^T / sqrt(width / heads)) v W_o)`,
    and `logit = gelu(h W_1 + b_1) w_2 + b_2`. What `forward` gives is `a mean(logit) + b` with Platt's a and b.

    There are no positions: a prompt may have any number of rows.

    Attributes:
        centre: `(d,)`.
        scale: Root mean square of centred rows, a scalar.
        concept: The concept's rows, as they were encoded, `(k, d)`.
        platt: a and b, `(2,)`.

    Does not guarantee: anything on prompts unlike those it was trained on, or that its gradient takes the concept out
    of what a denoiser makes of a prompt.

    Source: "a compact cross-attention classifier" on (concept embedding, prompt embedding) is all that is known to us
    of arXiv:2511.05865; layers, sizes and members are ours.
    """

    def __init__(self, concept: Tensor, *, width: int = 64, heads: int = 4, members: int = 4) -> None:
        super().__init__()
        for name, value in (("width", width), ("heads", heads), ("members", members)):
            check_positive_int(value, name)
        if width % heads:
            raise InputError(f"width={width} does not divide into heads={heads}: write a multiple, e.g. {4 * heads}")
        d = concept.shape[-1]
        self.width, self.heads, self.members = width, heads, members

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(members, *shape))  # nn.Linear would draw from the global generator

        self.w_q, self.w_k, self.w_v = empty(d, width), empty(d, width), empty(d, width)
        self.w_o, self.w_1, self.w_2 = empty(width, width), empty(width, width), empty(width)
        self.b_q, self.b_v, self.b_o, self.b_1, self.b_2 = (*(empty(width) for _ in range(4)), empty())
        self.gain, self.shift = empty(width), empty(width)
        self.concept: Tensor
        self.centre: Tensor
        self.scale: Tensor
        self.platt: Tensor
        self.register_buffer("concept", concept.detach().float().clone())
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("platt", torch.tensor([1.0, 0.0]))

    @property
    def sizes(self) -> dict[str, int]:
        """Width, heads and members."""
        return {"width": self.width, "heads": self.heads, "members": self.members}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], **sizes: int) -> ConceptClassifier:
        """A classifier with the weights of another.

        Args:
            state: Its `state_dict`.
            **sizes: Its `sizes`.

        Raises:
            InputError: If a tensor is missing, or of another shape.
        """
        if "concept" not in state:
            raise InputError("a classifier has no tensor 'concept'")
        with torch.inference_mode(False):  # tensors made within inference mode could not be in a gradient
            found = cls(state["concept"], **sizes).requires_grad_(False)
            try:
                found.load_state_dict(dict(state))
            except RuntimeError as error:
                raise InputError(f"a classifier's tensors do not fit: {error}") from error
            return found

    @torch.no_grad()
    def draw_(self, generator: torch.Generator) -> ConceptClassifier:
        """New weights of variance 1 / inputs; biases 0, gains 1."""
        for name, parameter in self.named_parameters():
            if name.startswith("w_"):
                drawn = torch.randn(parameter.shape, generator=generator) / parameter[0].shape[0] ** 0.5
                parameter.copy_(drawn)
            else:
                parameter.fill_(1.0 if name == "gain" else 0.0)
        return self

    def centre_(self, rows: Tensor) -> ConceptClassifier:
        """Take centre and scale from rows `(n, d)`."""
        self.centre = rows.mean(0)
        self.scale = (rows - self.centre).square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        return self

    def logits(self, x: Tensor, keep: Tensor) -> Tensor:
        """Logits of the members before Platt's scaling, `(n, members)`.

        Args:
            x: Embeddings `(n, rows, d)`, float32.
            keep: Rows that count, `(n, rows)` booleans; each prompt has one at least.
        """
        n, rows, _ = x.shape
        split = (self.heads, self.width // self.heads)
        x = (x - self.centre) / self.scale
        q = torch.einsum("kd,mdw->mkw", (self.concept - self.centre) / self.scale, self.w_q) + self.b_q[:, None]
        # A bias of the keys adds the same to all of a query's scores: softmax does not see it.
        k = torch.einsum("nrd,mdw->nmrw", x, self.w_k).view(n, self.members, rows, *split)
        v = (torch.einsum("nrd,mdw->nmrw", x, self.w_v) + self.b_v[:, None]).view(n, self.members, rows, *split)
        q = q.view(self.members, -1, *split)
        scores = torch.einsum("mkhs,nmrhs->nmhkr", q, k) / split[1] ** 0.5
        weights = scores.masked_fill(~keep[:, None, None, None, :], -torch.inf).softmax(-1)
        h = torch.einsum("nmhkr,nmrhs->nmkhs", weights, v).flatten(-2)
        h = torch.einsum("nmkw,mwu->nmku", h, self.w_o) + self.b_o[:, None]
        h = F.layer_norm(h, (self.width,), eps=EPS) * self.gain[:, None] + self.shift[:, None]
        h = F.gelu(torch.einsum("nmw,mwu->nmu", h.mean(2), self.w_1) + self.b_1)
        return (h * self.w_2).sum(-1) + self.b_2

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Calibrated logits of the concept, `(n,)`; `sigmoid` of them are probabilities.

        Args:
            x: Embeddings `(n, rows, d)`, float32.
            keep: Rows that count, `(n, rows)` booleans.
        """
        return self.platt[0] * self.logits(x, keep).mean(1) + self.platt[1]
