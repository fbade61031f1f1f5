"""A small classifier that tells a concept in noisy latents, trained on pictures: what steers a sampling."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.latents import encoded
from efface.audit.pipelines.probes.material import material
from efface.audit.pipelines.probes.subject import NotApplicableError
from efface.pipelines.noising import Noising
from efface.stats.roc import auroc_interval

_STREAM, _WEIGHTS = 230, 231
_BATCH, _RATE, _DECAY, _TOWARDS_NOISE, _PICTURES = 64, 2e-3, 1e-3, 1 / 3, 4


class LatentClassifier(nn.Module):
    """Logit that noisy latents are of the concept: three convolutions, and what share of them is noise.

    The paper's is a perceptron on the flattened latents; convolutions tell the concept better at each noise level.

    Args:
        channels: Of the latents.
        width: Of the convolutions.
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 2 * width)
        pairs = list(zip(widths, widths[1:], strict=False))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairs)
        self.times = nn.ModuleList(nn.Linear(2, 2 * o) for _, o in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(8, o) for _, o in pairs)
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, latents: Tensor, amounts: Tensor) -> Tensor:
        """`(n,)` logits of `(n, c, h, w)` latents; `amounts` are `(n, 2)`: how much is clean, and how much noise."""
        x = latents
        for convolution, time, norm in zip(self.convolutions, self.times, self.norms, strict=True):
            scale, shift = time(amounts)[..., None, None].chunk(2, dim=1)
            x = F.silu(norm(convolution(x)) * (1 + scale) + shift)
            x = F.avg_pool2d(x, 2) if min(x.shape[-2:]) > 2 else x
        return self.head(x.mean((-2, -1)))[:, 0]


@dataclass(frozen=True)
class Trained:
    """A classifier, and how well it tells the concept in pictures that it was not trained on, over all noise levels.

    Attributes:
        network: The classifier.
        auroc: Area under the curve at noise levels as in training.
        said: What it was trained on, in words.
    """

    network: LatentClassifier
    auroc: float
    said: str


_TRAINED: WeakKeyDictionary[Case, dict[tuple[int, int], Trained]] = WeakKeyDictionary()


def trained(case: Case, pictures: int, steps: int) -> Trained:
    """The classifier of a case, trained once: the same for every subject.

    Source: arXiv:2505.17013, appendix D.5: binary cross-entropy with AdamW on noisy latents, timesteps `T u^(1/3)`,
    which lie towards the noise. A fifth of the pictures is held out.

    Args:
        case: The case; pictures are those of `material`.
        pictures: How many with the concept, and how many without.
        steps: Of the optimiser.

    Raises:
        NotApplicableError: If there are no pictures without the concept, or latents are no pictures.
    """
    known = _TRAINED.setdefault(case, {})
    if (pictures, steps) not in known:
        known[pictures, steps] = _train(case, pictures, steps)
    return known[pictures, steps]


def _train(case: Case, pictures: int, steps: int) -> Trained:
    found = material(case, pictures)
    with case.base.on() as view:
        yes, no = encoded(view, found.concept[:pictures]), encoded(view, found.others[:pictures])
        noising = view.noising
    if yes.ndim != _PICTURES:
        raise NotApplicableError(f"latents of shape {tuple(yes.shape[1:])} are no pictures")
    held = max(2, pictures // 5)
    latents, labels = (
        torch.cat([yes[held:], no[held:]]),
        torch.cat([torch.ones(len(yes) - held), torch.zeros(len(no) - held)]),
    )
    source = case.source(_STREAM)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(int(torch.randint(2**31, (), generator=case.source(_WEIGHTS))))
        network = LatentClassifier(latents.shape[1]).to(latents)
        optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
        weight = (labels == 0).sum() / (labels == 1).sum()
        for _ in range(steps):
            rows = torch.randint(len(latents), (_BATCH,), generator=source)
            noisy, amounts = _noisy(latents[rows.to(latents.device)], noising, source)
            loss = F.binary_cross_entropy_with_logits(
                network(noisy, amounts), labels[rows].to(latents), pos_weight=weight.to(latents)
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.eval().requires_grad_(False)
    noisy, amounts = _noisy(torch.cat([yes[:held], no[:held]]).repeat(8, 1, 1, 1), noising, source)
    logits = network(noisy, amounts).cpu().double().view(8, 2, held)
    area = auroc_interval(logits[:, 0].flatten().numpy(), logits[:, 1].flatten().numpy()).value
    said = f"a classifier of noisy latents, trained on {2 * (pictures - held)} pictures ({found.source})"
    return Trained(network, area, said)


def _noisy(latents: Tensor, noising: Noising, source: torch.Generator) -> tuple[Tensor, Tensor]:
    u = torch.rand(len(latents), generator=source) ** _TOWARDS_NOISE
    t = (u * noising.times).long().clamp(max=noising.times - 1).to(latents.device)
    noise = torch.randn(latents.shape, generator=source).to(latents)
    a, b = noising.amounts(t, latents)
    return noising.noised(latents, noise, t), torch.cat([a.flatten(1)[:, :1], b.flatten(1)[:, :1]], dim=1)
