"""What erasers that tune a denoiser share: which weights, on which latents, until when, and what comes of it.

A fit takes steps of Adam on a `Student`, whose teacher is the pipeline's own denoiser as it is. While it goes on the
weights are compared by a rule, and the best are kept:

    score = miss + drift
    miss  = |said(concept) - aim| / |original(concept) - aim|             1 before, 0 where the aim is reached
    drift = |said(kept) - original(kept)| / |original(concept) - original(neutral)|            0 before

in root mean squares over latents that nothing is trained on: those of the original's guided sampling, at steps spread
evenly, of the concept's templates with its words, and with the words to preserve, and of the neutral prompt. The least
score is the best. No judge of pictures is asked.
"""

from __future__ import annotations

import functools
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from efface._errors import EffaceWarning, InputError
from efface._progress import progress
from efface._validate import check_type
from efface.core.checkpoint import Checkpoint
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.fingerprint import fingerprint
from efface.diffusion.text.contexts import templates_of
from efface.diffusion.weights.erasure import WeightErasure, delta_of
from efface.diffusion.weights.layers import Modules, chosen_layers, denoiser_of
from efface.diffusion.weights.passes import Aim, Passes, Precision
from efface.diffusion.weights.student import Student, TunedWeights, nbytes
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView
from efface.training.loop import DivergedError, Trainer
from efface.training.seeds import generator

_PROBES, _DRAWS = 1, 2
"""Streams of random numbers, beside those of methods (from 10 on)."""

_SMALLER = "write a smaller learning_rate"


class Plan(NamedTuple):
    """How a fit descends."""

    steps: int
    learning_rate: float
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TuningConfig(Config):
    """Options that all methods share which tune a denoiser; a base, with the defaults of none."""

    modules: Modules = option("x", "which layers are tuned: by what they do, cross-attention for one")
    batch: int = option(1, "samples a step", least=1)
    guidance: float | None = option(3.0, "scale of guidance of the sampling; none takes the pipeline's", above=0)
    sampling_steps: int = option(50, "steps of the scheduler, of which a sampling takes some", least=1)
    at_once: int = option(8, "samples drawn at once", least=1)
    evaluate_every: int = option(20, "steps from one comparison of weights to the next", least=1)
    probes: int = option(8, "latents of the concept, and as many others, that weights are compared on", least=1)
    keep: Literal["best", "last"] = option("best", "which weights: those of the least score, or the last ones")
    precision: Precision = option("as loaded", "numbers of passes; what is trained is float32 all the same")
    gradient_checkpointing: bool = option(False, "keep no activations for the gradient: less memory, more time")
    seed: int = option(0, "of all that is drawn", least=0)

    @property
    def plan(self) -> Plan:
        """How many steps, how large."""
        raise NotImplementedError

    @property
    def rate(self) -> Callable[[int], float] | None:
        """Learning rate of each step, where it is not the same in all."""
        return None


class Look(NamedTuple):
    """How weights compare.

    Attributes:
        step: After how many steps.
        loss: Mean loss since the last look.
        miss: How far the concept's predictions are from what they are to be; 1 before.
        drift: How far predictions that are to stay have moved, in lengths of the concept's guidance.
    """

    step: int
    loss: float
    miss: float
    drift: float

    @property
    def score(self) -> float:
        """The least is the best."""
        return self.miss + self.drift


Loss = Callable[[int], Tensor]
"""Number of a step -> its loss, the same whatever came before."""


class Tuning:
    """One fit.

    Args:
        view: The pipeline.
        concepts: What is erased.
        config: The options.
        method: Name of the method.
        aims: Concept, word, template -> what is to be said of the template with the word; weights are compared by it.
        texts: Further prompts.
        call: Further arguments of the pipeline's call.
        student: What is trained; None trains the layers that the options name.
        outcome: What of the student's weights is the result, where it is not these themselves.

    Attributes:
        teacher: The denoiser as it is.
        student: What is trained.
        passes: How both are asked.
    """

    def __init__(
        self,
        view: PipelineView,
        concepts: Sequence[Concept],
        config: TuningConfig,
        method: str,
        aims: Callable[[Concept, str, str], Aim],
        *,
        texts: Iterable[str | None] = (),
        call: Mapping[str, Any] | None = None,
        student: Student | None = None,
        outcome: Callable[[Student], list[Tensor]] = Student.values,
    ) -> None:
        for concept in concepts:
            view.check_concept(concept)
        self.view, self.concepts, self.config, self.method = view, tuple(concepts), config, method
        self.call, self._outcome = _checked(call), outcome
        self.teacher = denoiser_of(view)
        layers = () if student else tuple(chosen_layers(view, config.modules))
        self.student = student or TunedWeights(self.teacher, layers)
        if config.gradient_checkpointing:
            self.student.checkpointed()
        self.aims, self.kept = probed(concepts, config.probes, aims), kept_of(concepts, config.probes)
        every = [*texts, *self.kept, *(text for aim in self.aims for text in aim.texts)]
        self.passes = Passes(
            view, every, _neutral(concepts), call=self.call, guidance=config.guidance, precision=config.precision
        )
        self._probes: _Probes | None = None

    # ------------------------------------------------------------------------------------------------ the steps

    def run(
        self, loss: Loss, checkpoint: str | os.PathLike[str] | None = None, seconds: float = 30.0, **more: Any
    ) -> WeightErasure:
        """Take the steps; what the best weights, or the last, differ in from those of the pipeline.

        Args:
            loss: Of each step.
            checkpoint: Folder for the state; a fit that was interrupted goes on from there, to the same bits. That of
                a fit with other `steps` will do, as no step depends on how many follow.
            seconds: Least time between two writings.
            **more: Goes into the report; plain data.

        Raises:
            DivergedError: If a loss or gradient is not finite. The checkpoint then has the weights before, and of those
                that were compared the best: the same call with as many `steps` gives these.
        """
        clock = time.perf_counter(), time.process_time()
        plan, saved = self.config.plan, Checkpoint(checkpoint, self._identity() if checkpoint else {}, seconds=seconds)
        trainer = self._trainer(plan)
        course = _Course(trainer, saved, self.config)
        with progress(f"tuning ({self.method})", plan.steps, done=trainer.step, unit="steps") as bar:
            while trainer.step < plan.steps:
                try:
                    course.took(trainer.descend(loss(trainer.step)))
                    if trainer.step % self.config.evaluate_every == 0:
                        course.looked(*self.look())
                except DivergedError as error:
                    self._look_again(course)
                    course.write()
                    raise DivergedError(_diverged(error, course, checkpoint)) from error
                bar.update(1)
                if saved.due():
                    course.write()
            if not self._look_again(course) and not (course.looks and self.config.keep == "best"):
                raise DivergedError(f"the weights after {trainer.step} steps are not finite: {_SMALLER}")
        found = self._found(course, more)
        saved.clear()
        return replace(found, provenance={"cost": _cost(clock, self.passes.device)})

    def _look_again(self, course: _Course) -> bool:
        """Compare the weights as they are, unless that was done; whether they can be."""
        if course.looks and course.looks[-1].step == course.trainer.step:
            return True
        try:
            course.looked(*self.look())
        except DivergedError:
            return False
        return True

    def _trainer(self, plan: Plan) -> Trainer:
        own = self.student.trained.parameters()
        return Trainer(
            self.student.trained,
            torch.optim.AdamW(own, lr=plan.learning_rate, weight_decay=plan.weight_decay),
            rate=self.config.rate,
            clip=math.inf,  # none, but a gradient that is not finite is seen before it is used
            name=f"method={self.method!r}",
            advice=_SMALLER,
        )

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a fit to go on."""
        config = {k: v for k, v in self.config.to_dict().items() if k != "steps" or self.config.rate is not None}
        weights = {name: fingerprint(part) for name, part in self.view.text_encoders.items()}
        return {
            "method": self.method,
            "config": config,
            "concepts": [concept.to_dict() for concept in self.concepts],
            "call": {name: repr(value) for name, value in sorted(self.call.items())},
            "weights": {**weights, self.view.denoising.only: fingerprint(self.teacher)},
        }

    def _found(self, course: _Course, more: Mapping[str, Any]) -> WeightErasure:
        values, chosen = course.chosen(self._outcome(self.student))
        start = min(look.score for look in course.looks)
        if start >= 1:
            warnings.warn(
                f"method={self.method!r} moved others more than it brought the concept to where it is to be (least "
                f"miss + drift {start:.2f}, 1 before): look at what is lost, and perhaps write another learning_rate",
                EffaceWarning,
                stacklevel=6,
            )
        report = {
            "trained": self.student.size,
            "trained_bytes": nbytes(self.student.values()),
            "steps": course.trainer.step,
            "rule": "least miss + drift" if self.config.keep == "best" else "last",
            "kept_step": chosen.step,
            "miss": chosen.miss,
            "drift": chosen.drift,
            "looks": [look._asdict() for look in course.looks],
            "compared_on": {"concept": [aim.asked for aim in self.aims], "kept": list(self.kept)},
            **more,
        }
        delta = delta_of(self.teacher, self.student.changes(values))
        part = {self.view.denoising.only: delta}
        about = {"method": self.method, "concepts": self.concepts, "config": self.config}
        return WeightErasure.made(part, **about, report=report)

    # -------------------------------------------------------------------------------------------- comparison

    def look(self) -> tuple[float, float, list[Tensor]]:
        """Miss and drift of the outcome as it is now, and the outcome."""
        if self._probes is None:
            self._probes = _Probes(self)
        outcome = self._outcome(self.student)
        with self.student.holding(outcome):
            return *self._probes.compared(self.student.module), outcome

    def said(self, latents: Tensor, t: Tensor, texts: Sequence[str | None] | PromptEmbedding) -> Tensor:
        """The student's predictions, through which gradients flow."""
        return self.passes(self.student.module, latents, t, texts)


class _Probes:
    """Latents that nothing is trained on, with what the original says there."""

    def __init__(self, tuning: Tuning) -> None:
        self._passes = passes = tuning.passes
        self._aims, self._kept = tuning.aims, tuning.kept
        asked = [aim.asked for aim in self._aims]
        teacher = tuning.teacher
        self._there = _latents(tuning, asked, teacher, 0)
        self._others = _latents(tuning, self._kept, teacher, 1)
        self._aim = torch.cat([passes.aimed(teacher, *part, aims) for part, aims in _split(self._there, self._aims)])
        self._stay = self._said(teacher, self._others, self._kept)
        before = self._said(teacher, self._there, asked)
        self._unit = _rms(before - self._said(teacher, self._there, [None] * len(asked)))
        self._far = _rms(before - self._aim)
        if not math.isfinite(self._unit + self._far):
            raise InputError("the denoiser's predictions are not finite before anything is tuned: load it in float32")
        if not min(self._unit, self._far) > 0:
            raise InputError(
                f"the denoiser says the same of {asked[0]!r} as it is to say of it: there is nothing to erase"
            )

    def compared(self, model: nn.Module) -> tuple[float, float]:
        said = self._said(model, self._there, [aim.asked for aim in self._aims])
        stay = self._said(model, self._others, self._kept)
        miss, drift = _rms(said - self._aim) / self._far, _rms(stay - self._stay) / self._unit
        if not math.isfinite(miss + drift):
            raise DivergedError(f"predictions of the tuned denoiser are not finite: {_SMALLER}")
        return miss, drift

    @torch.no_grad()
    def _said(self, model: nn.Module, latents: tuple[Tensor, Tensor], texts: Sequence[str | None]) -> Tensor:
        return torch.cat([self._passes(model, *part, each) for part, each in _split(latents, texts)])


_AT_ONCE = 8


def _split(latents: tuple[Tensor, Tensor], items: Sequence[Any]) -> list[tuple[tuple[Tensor, Tensor], Sequence[Any]]]:
    (x, t), n = latents, _AT_ONCE
    return [((x[i : i + n], t[i : i + n]), items[i : i + n]) for i in range(0, len(items), n)]


def _latents(tuning: Tuning, texts: Sequence[str | None], model: nn.Module, stream: int) -> tuple[Tensor, Tensor]:
    """A latent of each prompt, at steps spread evenly over the sampling."""
    config, n = tuning.config, len(texts)
    seeds = seeds_of(n, generator(config.seed, _PROBES, stream))
    stops = [int((i + 0.5) / n * config.sampling_steps) for i in range(n)]
    parts = [slice(i, i + config.at_once) for i in range(0, n, config.at_once)]
    steps = config.sampling_steps
    found = [tuning.passes.on_their_way(texts[p], seeds[p], stops[p], steps, model) for p in parts]
    return torch.cat([x for x, _ in found]), torch.cat([t for _, t in found])


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


class _Course:
    """How a fit went so far, and the best weights: what a checkpoint has besides the trainer's."""

    def __init__(self, trainer: Trainer, saved: Checkpoint, config: TuningConfig) -> None:
        self.trainer, self._saved, self._keep = trainer, saved, config.keep
        position, tensors = trainer.resume(saved)
        self.looks = [Look(**each) for each in position.get("looks", [])]
        self._losses: list[float] = list(position.get("losses", []))
        self._best = [tensors[f"best-{i}"] for i in range(len(tensors))]

    def took(self, loss: float) -> None:
        """A step was taken."""
        self._losses.append(loss)

    def looked(self, miss: float, drift: float, values: list[Tensor]) -> None:
        """Weights were compared."""
        mean = sum(self._losses) / len(self._losses) if self._losses else math.nan
        look = Look(self.trainer.step, mean, miss, drift)
        if self._keep == "best" and look.score < min((each.score for each in self.looks), default=math.inf):
            self._best = values
        self.looks.append(look)
        self._losses = []

    def write(self) -> None:
        """Keep all of it."""
        position = {"looks": [look._asdict() for look in self.looks], "losses": self._losses}
        self.trainer.write(self._saved, position, **{f"best-{i}": x for i, x in enumerate(self._best)})

    def chosen(self, last: list[Tensor]) -> tuple[list[Tensor], Look]:
        """The weights that are kept, and how they compare."""
        if self._keep == "last":
            return last, self.looks[-1]
        kept = [best.to(now) for best, now in zip(self._best, last, strict=True)]
        return kept, min(self.looks, key=lambda look: look.score)


def _diverged(error: DivergedError, course: _Course, checkpoint: Any) -> str:
    step = course.trainer.step
    if not course.looks:
        kept = "no weights before that were compared: write a smaller evaluate_every to keep some"
    elif checkpoint is None:
        kept = "give checkpoint=FOLDER to keep the weights before that"
    else:
        where = os.fspath(checkpoint)
        kept = f"{where} has the weights before that: the same call with steps={step} gives the best that were compared"
    return f"{error}. It stopped at step {step}; {kept}"


# ------------------------------------------------------------------------------------------------- what is drawn


class Drawn(NamedTuple):
    """What a step is taken on: latents as the denoiser is given them, timesteps, and what is to be said."""

    latents: Tensor
    t: Tensor
    aims: list[Aim]


class Draws:
    """Latents on their way through guided sampling of the prompts that are asked, a batch for each step.

    Those of the original do not depend on what was learnt, so that many are drawn at once, in order of how far they
    go; those of the student are drawn for one step.

    Args:
        tuning: The fit.
        aims: One of these is drawn for each sample.
        by_student: Whether the student samples them.
        within: Whether times lie anywhere between the step that the sampling stopped at and the one before.
    """

    def __init__(self, tuning: Tuning, aims: Sequence[Aim], *, by_student: bool = False, within: bool = False) -> None:
        self._tuning, self._aims, self._by_student = tuning, aims, by_student
        config = tuning.config
        self._steps_ahead = 1 if by_student or config.at_once == 1 else max(1, _AHEAD * config.at_once // config.batch)
        self._block: tuple[int, list[Drawn]] = (-1, [])
        self._schedule = tuning.passes.schedule(config.sampling_steps) if within else None

    def at(self, step: int) -> Drawn:
        """Those of a step."""
        number, place = divmod(step, self._steps_ahead)
        if self._block[0] != number:
            self._block = number, self._drawn(number)
        return self._block[1][place]

    def _drawn(self, number: int) -> list[Drawn]:
        config, n = self._tuning.config, self._steps_ahead * self._tuning.config.batch
        source = generator(config.seed, _DRAWS, number)
        aims = [self._aims[i] for i in torch.randint(len(self._aims), (n,), generator=source).tolist()]
        stops = torch.randint(config.sampling_steps, (n,), generator=source).tolist()
        seeds, jitter = seeds_of(n, source), torch.rand(n, generator=source)
        order = sorted(range(n), key=stops.__getitem__)
        latents, times = dict[int, Tensor](), dict[int, Tensor]()
        model = self._tuning.student.module if self._by_student else self._tuning.teacher
        for start in range(0, n, config.at_once):
            part = order[start : start + config.at_once]
            own, until = [seeds[i] for i in part], [stops[i] for i in part]
            texts = [aims[i].asked for i in part]
            x, t = self._tuning.passes.on_their_way(texts, own, until, config.sampling_steps, model)
            latents |= dict(zip(part, x, strict=True))
            times |= dict(zip(part, t, strict=True))
        t = self._within(torch.stack([times[i] for i in range(n)]), stops, jitter)
        x = torch.stack([latents[i] for i in range(n)])
        parts = [slice(i, i + config.batch) for i in range(0, n, config.batch)]
        return [Drawn(x[p], t[p], aims[p]) for p in parts]

    def _within(self, t: Tensor, stops: Sequence[int], jitter: Tensor) -> Tensor:
        if self._schedule is None or len(self._schedule) < 2:
            return t
        times = self._schedule.to(t.device)
        before = torch.cat([2 * times[:1] - times[1:2], times])[torch.tensor(stops).to(t.device)]
        found = t + jitter.to(t.device) * (before - t)
        most = self._tuning.view.scheduler.config.num_train_timesteps
        return found if t.is_floating_point() else found.floor().clamp(max=most - 1).to(t.dtype)


_AHEAD = 4
"""So many times `at_once` samples are put in order before they are drawn."""


def seeds_of(n: int, source: torch.Generator) -> list[int]:
    """N seeds."""
    return torch.randint(2**31, (n,), generator=source).tolist()


def probed(concepts: Sequence[Concept], n: int, aims: Callable[[Concept, str, str], Aim]) -> list[Aim]:
    """N aims that weights are compared by, at least one a concept: its templates with its words, the bare word last."""
    each = []
    for concept in concepts:
        templates = sorted(templates_of(concept), key=lambda template: template == "{}")
        each.append([aims(concept, word, template) for template in templates for word in concept.words])
    return [each[i % len(each)][i // len(each) % len(each[i % len(each)])] for i in range(max(n, len(each)))]


def kept_of(concepts: Sequence[Concept], n: int) -> list[str | None]:
    """N prompts of which the same is to be said as before: with words to preserve, every fourth the neutral one."""
    words = [(c, word) for c in concepts for word in c.preserve]
    if not words:
        return [None] * n
    found: list[str | None] = []
    for i in range(n):
        concept, word = words[i % len(words)]
        templates = templates_of(concept)
        found.append(None if i % 4 == 3 else templates[i % len(templates)].replace("{}", word))
    return found


_OWN = re.compile(
    "(negative_)?(pooled_)?prompt.*|num_inference_steps|generator|output_type|return_dict|latents|guidance_scale"
)
"""Arguments of a pipeline's call that a fit gives itself."""


def _checked(call: Mapping[str, Any] | None) -> dict[str, Any]:
    """Further arguments of a pipeline's call.

    Raises:
        InputError: If they are none, or such as a fit gives itself.
    """
    given = dict(check_type({} if call is None else call, Mapping, "call", "argument of the pipeline's call by name"))
    if own := next((name for name in given if _OWN.fullmatch(str(name))), None):
        raise InputError(f"call has {own!r}, which the fit gives itself: write sizes there, such as height and width")
    return given


def _neutral(concepts: Sequence[Concept]) -> str:
    """The neutral prompt.

    Raises:
        InputError: If concepts name several.
    """
    texts = list(dict.fromkeys(concept.neutral for concept in concepts))
    if len(texts) > 1:
        raise InputError(f"the concepts have the neutral prompts {texts}: give all of them one, or fit each alone")
    return texts[0]


def _cost(start: tuple[float, float], device: torch.device) -> dict[str, Any]:
    """What a fit took: seconds, of all processors, and the peak of memory of the process, or of the device."""
    wall, cpu = start
    found = {"seconds": round(time.perf_counter() - wall, 3), "cpu_seconds": round(time.process_time() - cpu, 3)}
    if device.type == "cuda":
        return {**found, "peak_device_bytes": torch.cuda.max_memory_allocated(device)}
    return {**found, "peak_process_bytes": peak_bytes()}


def peak_bytes() -> int | None:
    """The most memory that this process has had so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def ready(function: Callable[..., WeightErasure]) -> Callable[..., WeightErasure]:
    """A fit that takes gradients wherever it is called from: also within `torch.no_grad()` and inference mode."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> WeightErasure:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return called
