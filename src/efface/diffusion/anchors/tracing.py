"""Causal tracing: which rows of a prompt carry a concept into the denoiser, where, and how far an anchor's replace it.

One prompt's keys and values are put into another's run, by kind of row and block by block. That erasure is sensitive
to its anchor was found so (arXiv:2510.16342, in its abstract); which rows were patched there, and how it was measured,
is not public: what stands here is ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._progress import progress
from efface._validate import check_positive_int, to_tensor
from efface.audit.audit import Audit
from efface.audit.figure import Figure, Series
from efface.audit.finding import Finding
from efface.core.doors import check_call
from efface.core.hooks import edit_call
from efface.diffusion.anchors.keys import TextReaders
from efface.diffusion.text.kinds import AFTER, BEFORE, END, PADDING, START, WORD, kinds_of
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import parts_of
from efface.pipelines.steps import Step
from efface.pipelines.view import PipelineView
from efface.report.data import NO_CHANGE
from efface.stats.intervals import Interval, bootstrap_interval

GROUPS: Mapping[str, tuple[str, ...]] = {
    "word": (WORD,),
    "context": (BEFORE, AFTER),
    "end": (END,),
    "padding": (PADDING,),
    "start": (START,),
    "all rows": (WORD, BEFORE, AFTER, END, PADDING, START),
}
"""Rows that are patched together."""

EVERYWHERE = "all blocks"
FAMILY = "rows of another prompt"
_SAME = 1e-3
_STEPS, _AT_ONCE = 8, 8
_MEASURED_AT = (0.25, 0.5, 0.75)

Judge = Callable[[Tensor, str], Any]
"""Pictures and the name of a concept -> for each picture whether the concept is in it, 0 to 1, `(n,)`."""


@dataclass(frozen=True)
class Patch:
    """Rows of one prompt that take the place of another's.

    Attributes:
        base: The rows of the prompt that is run, as the layers are given them, `(rows, width)`.
        to: Which of them are replaced.
        donor: Layer -> its keys or values of the other prompt, `(rows, width)`.
        start: Which rows of the other prompt take their place, one for each.
    """

    base: Tensor
    to: Sequence[int]
    donor: Mapping[str, Tensor]
    start: Sequence[int]

    @contextmanager
    def on(self, layers: Mapping[str, nn.Module]) -> Iterator[None]:
        """Put the other prompt's rows into every run of the prompt, for the length of a block."""
        with ExitStack() as stack:
            for name, module in layers.items():

                def change(_module: Any, args: Any, _kwargs: Any, out: Tensor, name: str = name) -> Tensor | None:
                    return self._patched(args[0], out, self.donor[name])

                stack.callback(edit_call(module, "output", change))
            yield

    def _patched(self, x: Tensor, out: Tensor, donor: Tensor) -> Tensor | None:
        if x.shape[1:] != self.base.shape:
            return None
        far = (x.float() - self.base.to(x.device)).abs().amax((1, 2))
        own = (far <= _SAME * float(self.base.abs().max())).nonzero().flatten()  # not the negative prompt's
        if not len(own) or not len(self.to):
            return None
        out = out.clone()
        out[own[:, None], torch.tensor(self.to, device=out.device)] = donor[list(self.start)].to(out)
        return out


def trace_anchor(
    pipe: Any,
    concept: str,
    anchor: str,
    *,
    template: str = "a photo of a {}",
    seeds: int | Sequence[int] = 8,
    rows: Sequence[str] = ("word", "context", "end", "padding", "all rows"),
    judge: Judge | None = None,
    blocks: bool = True,
    **sampling: Any,
) -> Audit:
    """Put an anchor's rows into the run of a concept, kind by kind and block by block, and measure what changes.

    Without a judge, what changes is the denoiser's prediction, at three steps of a sampling of the concept's prompt:
    `<e_patched - e_concept, e_anchor - e_concept> / |e_anchor - e_concept|^2`, 0 where the patch does nothing and 1
    where it does all that the anchor's prompt does. With one, it is how much of the concept the judge sees in pictures
    that are sampled with the patch on.

    Args:
        pipe: A pipeline whose key and value layers read the prompt as its text encoders give it (SD 1.x, 2.x, SDXL,
            Wan); a pooled vector is left as it is. Nothing of it is changed.
        concept: The word in the prompt that is run.
        anchor: The word in the prompt whose rows are put in.
        template: The prompt, with `{}` for the word.
        seeds: Seeds of the samples, or how many.
        rows: Which rows, of `GROUPS`.
        judge: Pictures `(n, 3, h, w)` and a name -> how much of it is in each, `(n,)`.
        blocks: Whether each attention block is patched by itself, too.
        **sampling: As in `PipelineView.sample`: `steps`, `guidance`, `height`, ...

    Returns:
        An audit with a finding for each kind of row and block, with intervals over seeds, and a figure.

    Raises:
        InputError: If the pipeline has joint attention, in which a prompt has no keys of its own, a name of rows is
            unknown, or both prompts are the same to the text encoder.

    Does not guarantee: that what a row carries is used where it is read; patches of single blocks do not add up.
    """
    check_call(trace_anchor, locals())
    if unknown := [name for name in rows if name not in GROUPS]:
        raise InputError(f"there are no rows {unknown[0]!r}: write some of {', '.join(GROUPS)}")
    if template.count("{}") != 1:
        raise InputError(f"the template {template!r} must have {{}} once, in place of the word")
    tracer = _Tracer.of(PipelineView.of(pipe), concept, anchor, template)
    each = list(range(check_positive_int(seeds, "seeds"))) if isinstance(seeds, int) else list(seeds)
    places = {EVERYWHERE: tuple(tracer.layers)} | (tracer.blocks if blocks else {})
    patches = {name: patch for name in rows if (patch := tracer.patch(name)).to}
    measured = tracer.judged(judge, each, patches, places, sampling) if judge is not None else None
    found = measured or tracer.predicted(each, patches, places, sampling)
    return _audit(found, tracer, each, judge is not None, sampling)


Found = Mapping[tuple[str, str], Tensor]
"""(kind of row, block) -> a number a seed, `(n,)`; under ("", "") that of the run as it is."""


@dataclass(frozen=True)
class _Tracer:
    """Two prompts, and the layers that read them."""

    view: PipelineView
    concept: str
    anchor: str
    prompts: tuple[str, str]
    base: PromptEmbedding
    donor: PromptEmbedding
    layers: Mapping[str, nn.Module]

    @classmethod
    def of(cls, view: PipelineView, concept: str, anchor: str, template: str) -> _Tracer:
        layers = {name: layer for name, layer in TextReaders(view).layers.items() if name.endswith((".to_k", ".to_v"))}
        if not layers:
            raise InputError(
                f"{type(view.pipe).__name__} has no keys and values that depend on the prompt alone: rows can be "
                "traced in pipelines with plain cross-attention (SD 1.x, 2.x, SDXL, Wan)"
            )
        prompts = tuple(" ".join(template.replace("{}", word).split()) for word in (concept, anchor))
        base, donor = (view.encode(prompt).replace(negative=None) for prompt in prompts)
        if torch.equal(base.sequence, donor.sequence):
            raise InputError(f"{prompts[0]!r} and {prompts[1]!r} are the same to the text encoder: name another anchor")
        return cls(view, concept, anchor, (prompts[0], prompts[1]), base, donor, layers)

    @property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Name of a block of attention -> its layers of keys and values."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.layers:
            block = name.rpartition(".")[0]
            found[block] = (*found.get(block, ()), name)
        return found

    def patch(self, group: str) -> Patch:
        """The patch of one group of rows; empty where a prompt has none of them."""
        kinds = self._kinds(self.prompts[0], self.concept), self._kinds(self.prompts[1], self.anchor)
        to: list[int] = []
        start: list[int] = []
        for kind in GROUPS[group]:
            ours, theirs = ([row for row, each in enumerate(k) if each == kind] for k in kinds)
            for i, row in enumerate(ours if theirs else ()):
                to.append(row)
                # Rows of padding by their place, all others in their order; a longer word ends in the other's last row.
                own_place = kind == PADDING and row in theirs
                start.append(row if own_place else theirs[min(i, len(theirs) - 1)])
        with torch.no_grad():
            rows = self.donor.sequence
            donor: dict[str, Tensor] = {}
            for name, layer in self.layers.items():
                weight: Any = layer.weight
                donor[name] = layer(rows.to(weight))[0].detach()
        return Patch(self.base.sequence[0].float(), to, donor, start)

    def _kinds(self, prompt: str, word: str) -> list[str]:
        part = next(part for part in parts_of(self.base) if not part.pooled)
        return kinds_of(self.view.tokens(prompt)[part.encoder], part, word)

    def predicted(
        self,
        seeds: Sequence[int],
        patches: Mapping[str, Patch],
        places: Mapping[str, Sequence[str]],
        sampling: Mapping[str, Any],
    ) -> Found:
        """How far each patch moves the prediction to the anchor's, of each seed: mean over steps."""
        steps = int(sampling.get("steps") or _STEPS)
        at = {int(share * steps) for share in _MEASURED_AT}
        found: dict[tuple[str, str], list[Tensor]] = {}
        now: dict[tuple[str, str], list[Tensor]] = {}

        def rule(step: Step) -> None:
            if step.index in at:
                for key, value in self._moved(step, patches, places).items():
                    now.setdefault(key, []).append(value)

        with progress("tracing", len(seeds), unit="samples") as bar, self.view.guided(rule):
            for start in range(0, len(seeds), _AT_ONCE):
                part = list(seeds[start : start + _AT_ONCE])
                now.clear()
                self.view.sample(self.prompts[0], part, latent=True, **{**sampling, "steps": steps})
                for key, each in now.items():
                    found.setdefault(key, []).append(torch.stack(each).mean(0))
                bar.update(len(part))
        return {key: torch.cat(each) for key, each in found.items()}

    def _moved(
        self, step: Step, patches: Mapping[str, Patch], places: Mapping[str, Sequence[str]]
    ) -> dict[tuple[str, str], Tensor]:
        base, donor = (PromptEmbedding.cat([each] * len(step.latents)) for each in (self.base, self.donor))
        found: dict[tuple[str, str], Tensor] = {}
        with torch.no_grad():
            own = step.predict(base).double().flatten(1)
            way = step.predict(donor).double().flatten(1) - own
            for group, patch in patches.items():
                for place, names in places.items():
                    with patch.on({name: self.layers[name] for name in names}):
                        changed = step.predict(base).double().flatten(1) - own
                    found[group, place] = ((changed * way).sum(1) / way.square().sum(1)).cpu()
        return found

    def judged(
        self,
        judge: Judge,
        seeds: Sequence[int],
        patches: Mapping[str, Patch],
        places: Mapping[str, Sequence[str]],
        sampling: Mapping[str, Any],
    ) -> Found:
        """How much of the concept a judge sees in each picture, patched and as it is."""

        def seen() -> Tensor:
            pictures = self.view.sample(self.prompts[0], list(seeds), **sampling)
            return to_tensor(judge(pictures, self.concept), "what the judge says").double().reshape(len(seeds))

        found = {("", ""): seen()}
        for group, patch in patches.items():
            for place, names in places.items():
                with patch.on({name: self.layers[name] for name in names}):
                    found[group, place] = seen()
        return found


def _audit(found: Found, tracer: _Tracer, seeds: Sequence[int], judged: bool, sampling: Mapping[str, Any]) -> Audit:
    before = found.get(("", ""))
    level = _mean(before)
    groups = list(dict.fromkeys(group for group, _ in found if group))
    places = list(dict.fromkeys(place for _, place in found if place))
    named = {place: place if place == EVERYWHERE else _short(place) for place in places}
    findings = {key: _finding(key[0], named[key[1]], value, before, seeds) for key, value in found.items() if key[0]}
    whole = tuple(findings[group, EVERYWHERE] for group in groups)
    alone = [place for place in places if place != EVERYWHERE]
    what = f"{tracer.concept} seen by the judge" if judged else "moved to the anchor's prediction"
    series = [
        Series.of(group, [findings[group, place] for place in alone], [named[place] for place in alone])
        for group in groups
    ]
    caption = f"Keys and values of {tracer.prompts[1]!r} in the run of {tracer.prompts[0]!r}; {len(seeds)} seeds."
    everywhere = (Series.of("patched", whole, groups),)
    figures = [Figure("Patched in all blocks", everywhere, "intervals", what, "", level, "share", caption, NO_CHANGE)]
    if alone:
        figures.append(
            Figure("Patched in one block", tuple(series), "lines", "block", what, level, "share", caption, NO_CHANGE)
        )
    best = max(whole, key=lambda f: abs(f.value - level) if f.name != "all rows" else -1.0)
    return Audit(
        f"What carries {tracer.concept!r}, next to {tracer.anchor!r}",
        text=(
            f"Rows of {tracer.prompts[1]!r} were put into the run of {tracer.prompts[0]!r} where the denoiser makes "
            f"keys and values of them. Measured: {what}.",
        ),
        conclusions=(f"Most changes by rows of the kind {best.name!r} (patched in all blocks).",) if whole else (),
        findings=tuple(findings.values()),
        figures=tuple(figures),
        caveats=(
            "Rows have read one another: what a row carries may come from any word before it, or around it.",
            "Patches of single blocks do not add up to that of all.",
        ),
        settings={"seeds": list(seeds), "judged": judged, **{k: v for k, v in sampling.items() if _plain(v)}},
    )


def _finding(group: str, place: str, value: Tensor, before: Tensor | None, seeds: Sequence[int]) -> Finding:
    numbers = value.cpu().numpy()
    mean = float(np.mean(numbers))
    interval = bootstrap_interval(numbers) if len(numbers) > 1 else Interval(mean, mean, mean, 0.95, "one seed")
    more: dict[str, Any] = {"chance": _mean(before), "reference": NO_CHANGE, "n": len(seeds), "unit": "share"}
    if before is not None:
        more["baseline"] = _mean(before)
    return Finding.of(group, interval, FAMILY, place, **more)


def _short(block: str) -> str:
    """A block of attention, without what is in the name of each.

    >>> _short("unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2"), _short("transformer.blocks.3.attn2")
    ('up 0.1', 'transformer.blocks.3')
    """
    name = block.rpartition(".attn")[0].removesuffix(".transformer_blocks.0") or block
    return re.sub(r"^\w+\.(down|mid|up)_blocks?\.(.*?)attentions\.", r"\1 \2", name)


def _mean(before: Tensor | None) -> float:
    return 0.0 if before is None else float(before.mean())


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)
