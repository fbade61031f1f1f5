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
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from efface._errors import EffaceWarning, InputError
from efface._progress import progress
from efface._validate import check_type
from efface.core.checkpoint import Checkpoint
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.fingerprint import fingerprint
from efface.core.weights import nbytes_of
from efface.diffusion.weights.erasure import WeightErasure, delta_of
from efface.diffusion.weights.layers import Modules, chosen_layers, denoiser_of
from efface.diffusion.weights.passes import Aim, Passes, Precision, Texts
from efface.diffusion.weights.probes import SMALLER, Probes, Sampling, kept_of, probed
from efface.diffusion.weights.student import Reweighted, Student, TunedWeights
from efface.pipelines.view import PipelineView
from efface.training.loop import DivergedError, Trainer, below

_E = TypeVar("_E")


class Plan(NamedTuple):
    """How a fit descends."""

    steps: int
    learning_rate: float
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TuningConfig(Config):
    """Options that all methods share which tune something; a base, with the defaults of none."""

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


@dataclass(frozen=True, kw_only=True)
class LayersConfig(TuningConfig):
    """Options of those that tune layers of the denoiser itself; a base, too."""

    modules: Modules = option("x", "which layers are tuned: by what they do, cross-attention for one")


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
"""Number of a step -> its loss, the same whatever came before, but for what its `Memory` has."""

_MEMORY = "memory-"


class Memory(Protocol):
    """What a loss keeps from step to step, besides what is trained."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by names without dots."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        ...


class Tuned(NamedTuple):
    """What a fit found.

    Attributes:
        values: Of what the student trains, the best or the last.
        report: Plain data.
    """

    values: list[Tensor]
    report: dict[str, Any]


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
        memory: What the loss keeps from step to step.

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
        memory: Memory | None = None,
    ) -> None:
        for concept in concepts:
            view.check_concept(concept)
        self.view, self.concepts, self.config, self.method = view, tuple(concepts), config, method
        self.call, self._outcome, self._memory = _checked(call), outcome, memory
        self.teacher = denoiser_of(view)
        if student is None:
            assert isinstance(config, LayersConfig)
            student = TunedWeights(self.teacher, tuple(chosen_layers(view, config.modules)))
        self.student: Student = student
        if config.gradient_checkpointing:
            self.student.checkpointed()
        self.aims, self.kept = probed(concepts, config.probes, aims), kept_of(concepts, config.probes)
        every = [*texts, *self.kept, *(text for aim in self.aims for text in aim.texts)]
        self.passes = Passes(
            view, every, _neutral(concepts), call=self.call, guidance=config.guidance, precision=config.precision
        )
        self._probes: Probes | None = None

    # ------------------------------------------------------------------------------------------------ the steps

    def run(
        self, loss: Loss, checkpoint: str | os.PathLike[str] | None = None, seconds: float = 30.0, **more: Any
    ) -> WeightErasure:
        """Take the steps; what the best weights, or the last, differ in from those of the pipeline.

        The student is a denoiser that has other weights.

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
        assert isinstance(self.student, Reweighted)
        found = self.tuned(loss, checkpoint, seconds, **more)
        part = {self.view.denoising.only: delta_of(self.teacher, self.student.changes(found.values))}
        about = {"method": self.method, "concepts": self.concepts, "config": self.config}
        return WeightErasure.made(part, **about, report=found.report)

    def tuned(
        self, loss: Loss, checkpoint: str | os.PathLike[str] | None = None, seconds: float = 30.0, **more: Any
    ) -> Tuned:
        """The same of any student: what it came to."""
        plan, saved = self.config.plan, Checkpoint(checkpoint, self._identity() if checkpoint else {}, seconds=seconds)
        trainer = self._trainer(plan)
        course = _Course(trainer, saved, self.config, self._memory)
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
                raise DivergedError(f"the weights after {trainer.step} steps are not finite: {SMALLER}")
        found = self._found(course, more)
        saved.clear()
        return Tuned(*found)

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
            advice=SMALLER,
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

    def _found(self, course: _Course, more: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Any]]:
        values, chosen = course.chosen(self._outcome(self.student))
        start = min(look.score for look in course.looks)
        if start >= 1:
            warnings.warn(
                f"method={self.method!r} moved others more than it brought the concept to where it is to be (least "
                f"miss + drift {start:.2f}, 1 before): look at what is lost, and perhaps write another learning_rate",
                EffaceWarning,
                stacklevel=7,
            )
        return values, {
            "trained": self.student.size,
            "trained_bytes": nbytes_of(self.student.values()),
            "steps": course.trainer.step,
            "rule": "least miss + drift" if self.config.keep == "best" else "last",
            "kept_step": chosen.step,
            "miss": chosen.miss,
            "drift": chosen.drift,
            "looks": [look._asdict() for look in course.looks],
            "compared_on": {"concept": [aim.asked for aim in self.aims], "kept": list(self.kept)},
            **more,
        }

    # -------------------------------------------------------------------------------------------- comparison

    def look(self) -> tuple[float, float, list[Tensor]]:
        """Miss and drift of the outcome as it is now, and the outcome."""
        if self._probes is None:
            sampling = Sampling(self.config.seed, self.config.sampling_steps, self.config.at_once)
            self._probes = Probes(self.passes, self.teacher, self.aims, self.kept, sampling)
        outcome = self._outcome(self.student)
        with self.student.holding(outcome):
            return *self._probes.compared(self.said), outcome

    def said(self, latents: Tensor, t: Tensor, texts: Texts) -> Tensor:
        """The student's predictions, through which gradients flow."""
        return self.student.said(self.passes, latents, t, texts)


class _Course:
    """How a fit went so far, and the best weights: what a checkpoint has besides the trainer's."""

    def __init__(self, trainer: Trainer, saved: Checkpoint, config: TuningConfig, memory: Memory | None) -> None:
        self.trainer, self._saved, self._keep, self._memory = trainer, saved, config.keep, memory
        position, tensors = trainer.resume(saved)
        self.looks = [Look(**each) for each in position.get("looks", [])]
        self._losses: list[float] = list(position.get("losses", []))
        best = below(tensors, "best-")
        self._best = [best[str(i)] for i in range(len(best))]
        if memory is not None and saved.found:
            with saved.reading():
                memory.load(below(tensors, _MEMORY))

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
        best = {f"best-{i}": x for i, x in enumerate(self._best)}
        kept = {} if self._memory is None else self._memory.tensors()
        self.trainer.write(self._saved, position, **best, **{_MEMORY + name: x for name, x in kept.items()})

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


def ready(function: Callable[..., _E]) -> Callable[..., _E]:
    """A fit that takes gradients wherever it is called from: also within `torch.no_grad()` and inference mode."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> _E:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return called
