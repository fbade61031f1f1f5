"""`efface.explain`: which part of each image a classifier listens to, and what the maps that say so are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

import efface.audit
from efface._errors import InputError
from efface._progress import progress
from efface._text import brief
from efface._validate import check_positive_int
from efface.attribution.curves import FRACTIONS
from efface.attribution.fitted import DietErasure
from efface.attribution.maskers import Masker
from efface.attribution.predictions import (
    Outputs,
    check_inputs,
    check_labels,
    device_of,
    explaining,
    parameter_dtype,
    predict,
)
from efface.attribution.removal import Removal
from efface.attribution.removal_images import ConstantColour
from efface.audit.audit import Audit
from efface.audit.explanations import Subject
from efface.audit.explanations.measured import MAP
from efface.audit.finding import Finding
from efface.core.config import plain
from efface.core.doors import check_call
from efface.core.inference import outside_inference
from efface.core.provenance import called, provenance
from efface.explanation.copy import about_copy
from efface.explanation.mapping import AT, METHODS, Maps, Setting, default_masker
from efface.explanation.picturing import Shown, picture_part
from efface.report.numbers import format_value
from efface.stats.intervals import wilson_interval

_Tune = Callable[[], DietErasure]
COPY = "the tuned copy"
_REMOVALS = {
    "ConstantColour": "a random colour, the same over the whole image",
    "Blur": "a blur of the image itself",
    "Marginal": "pixels of other images",
}


@dataclass(frozen=True)
class Explanation:
    """Maps of n images, and the audit of them.

    Attributes:
        maps: Method -> its maps, `(n, h, w)` each.
        probabilities: What the model says of the images, `(n, classes)`, on the CPU.
        audit: Findings, figures, pictures: `audit.save("report.html")`.
        fitted: DiET's tuned copy, where `"diet"` was asked for.
        failed: Method -> why it cannot explain this model; the audit says so, too.
    """

    maps: Mapping[str, Maps]
    probabilities: Tensor
    audit: Audit
    fitted: DietErasure | None = None
    failed: Mapping[str, str] = field(default_factory=dict)

    __repr__ = brief


@outside_inference
def explain(
    model: nn.Module,
    images: Tensor,
    *,
    methods: str | Sequence[str] = "qfa",
    removal: Removal | None = None,
    masker: Masker | None = None,
    train: Tensor | None = None,
    fitted: DietErasure | Callable[[], DietErasure] | None = None,
    classes: Sequence[str] | None = None,
    labels: Tensor | None = None,
    names: Sequence[str] | None = None,
    outputs: Outputs = "logits",
    steps: int = 30,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 4,
    show: int = 8,
    batch_size: int = 32,
    seed: int = 0,
    title: str = "",
) -> Explanation:
    """Which part of each image a classifier listens to, with controls next to it.

    Every map is measured by what the model still says when only its top pixels stay, and when only they go; so are the
    controls, which know nothing of the model: random, brightness, distance from the centre, edges. DiET's maps are
    measured on its tuned copy, next to controls on that copy.

    Args:
        model: In eval mode; images `(n, channels, h, w)` in [0, 1] to `(n, classes)`. See `PixelModel`.
        images: What to explain, `(n, channels, h, w)` in [0, 1].
        methods: `"qfa"`, `"diet"` or baselines (`METHODS`), one or several.
        removal: Q, what stands where something is removed; by default that of `fitted`, else a random colour, by the
            mean and spread of `train`, or of `images` where that is not given.
        masker: Cells of the masks of qfa and diet; by default those of `fitted`, else a grid of about 16 x 16.
        train: Images that DiET tunes its copy on, without labels; best ones like those that the model was trained on.
        fitted: A copy that was tuned before, instead of `train`; or a function that tunes one, called at diet's turn.
        classes: Names of the classes.
        labels: True classes `(n,)`, only to be told beside the pictures; no method sees them.
        names: Names of the images.
        outputs: Whether the model gives `"logits"` or `"probabilities"`.
        steps: Passes of the mask search of qfa and diet.
        fractions: Shares of pixels at which is measured; 0.05 must be among them.
        draws: Draws of Q an image, when measuring.
        show: How many images are in the report as pictures.
        batch_size: Images at a time.
        seed: Of everything random.
        title: Title of the audit.

    Raises:
        InputError: If an argument does not fit, the model is in training mode, images leave [0, 1], or no method can
            explain the model. Where some can, the others are findings that are not scored, with the reason.

    Does not guarantee: that a map is right about the world. It says what this model needs under this Q; no truth is
    known here, so none is compared with.
    """
    check_call(explain, locals())
    call = called("efface.explain", locals())
    chosen = _checked_methods(methods, train, fitted)
    check_inputs(images, images=True)
    _check_words(images, names, labels, check_positive_int(show, "show"))
    ready = fitted if isinstance(fitted, DietErasure) else None
    setting = Setting(
        removal=_removal(removal, ready, images if train is None else train),
        masker=masker if masker is not None else ready.search.masker if ready else default_masker(images),
        outputs=outputs,
        steps=check_positive_int(steps, "steps"),
        fractions=tuple(fractions),
        draws=draws,
        batch_size=check_positive_int(batch_size, "batch_size"),
        seed=seed,
    )
    x = images.detach().to(device_of(model, images), parameter_dtype(model))
    said = predict(model, x, outputs=outputs, batch_size=batch_size).float().cpu()
    check_class_names(classes, said)
    wanted = said.argmax(1)
    failed: dict[str, str] = {}
    if "diet" in chosen and ready is None:
        with _noting(failed, "diet"):
            ready = setting.diet().fit(model, train) if fitted is None else cast(_Tune, fitted)()
    student = None if ready is None else ready.student(model, check=False)
    maps: dict[str, Maps] = {}
    for name in chosen:
        if name not in failed:
            with _noting(failed, name):
                maps[name] = setting.maps(name, model, x, wanted, ready, student)
    if not maps:
        raise InputError("; ".join(failed.values()))
    audit = _audit(model, x, wanted, maps, failed, setting, student, title)
    shown = Shown(images.detach().float().cpu(), said, names, classes, labels)
    picturing = picture_part(shown, list(maps.values()), show)
    ready = ready if "diet" in maps else None
    copy = () if ready is None or student is None else (about_copy(ready, student, x, said),)
    if labels is not None:
        audit = replace(audit, text=(*audit.text, _score(said, labels)))
    origin = provenance(subject=[model, ready], data={"images": images, "train": train}, seed=seed, call=call)
    audit = replace(audit, parts=(picturing, *audit.parts, *copy), provenance=origin)
    return Explanation(maps, said, audit, ready, failed)


@contextmanager
def _noting(failed: dict[str, str], method: str) -> Iterator[None]:
    """One method that fails does not end the others: why is noted."""
    try:
        with explaining(method):
            yield
    except InputError as error:
        failed[method] = str(error)


def check_class_names(classes: Sequence[str] | None, said: Tensor) -> None:
    """Refuse names of classes that are not one for each column of what the model says, `(n, classes)`."""
    if classes is not None and len(classes) != said.shape[1]:
        raise InputError(f"{len(classes)} names of classes, and the model has {said.shape[1]}: name each, in its order")


def _audit(
    model: nn.Module,
    x: Tensor,
    wanted: Tensor,
    maps: Mapping[str, Maps],
    failed: Mapping[str, str],
    setting: Setting,
    student: nn.Module | None,
    title: str,
) -> Audit:
    """Curves of all maps, each on the model that it explains, next to controls on the same model."""
    sides = {"": (model, [m for m in maps.values() if m.method != "diet"])}
    if student is not None and "diet" in maps:
        sides[COPY] = (student, [maps["diet"]])
    controls = setting.controls(x)
    subjects = []
    with progress("measuring", sum(len(m) + len(controls) for _, m in sides.values()), unit="maps") as bar:
        for name, (subject, own) in sides.items():
            said = wanted
            if subject is not model:
                said = predict(subject, x, outputs=setting.outputs, batch_size=setting.batch_size).argmax(1).cpu()
            measured: list[dict[str, Any]] = [{}, {}]
            for values in own:
                measured[0][values.method] = setting.measure(subject, x, said, values.values, values.size)
                bar.update(1)
            for control, values in controls.items():
                measured[1][control] = setting.measure(subject, x, said, values, None)
                bar.update(1)
            if own:
                subjects.append(Subject(name, *measured))
    settings = {
        "removal": plain(setting.removal),
        "masker": plain(setting.masker),
        "steps": setting.steps,
        "draws": setting.draws,
    }
    numbers = efface.audit.maps(
        subjects, setting.fractions, at=AT, title="Next to controls", seed=setting.seed, settings=settings
    )
    missing = tuple(Finding.without(name, "not run", why, MAP) for name, why in failed.items())
    return Audit(
        title or "What does the model need to see?",
        text=_text(len(x), setting),
        conclusions=(*(f"NOT scored: {name}. {why}." for name, why in failed.items()), *numbers.conclusions),
        parts=(replace(numbers, conclusions=(), findings=(*numbers.findings, *missing)),),
    )


def _removal(removal: Removal | None, fitted: DietErasure | None, reference: Tensor) -> Removal:
    if removal is not None:
        return removal
    return ConstantColour.of(reference) if fitted is None else fitted.search.removal


def _score(said: Tensor, labels: Tensor) -> str:
    share = wilson_interval(int((said.argmax(1) == torch.as_tensor(labels)).sum()), len(said))
    value, low, high = (format_value(v, "share") for v in (share.value, share.low, share.high))
    return f"The model says the label of {value} ({low} to {high}) of them; no method was told a label."


def _text(n: int, setting: Setting) -> tuple[str, ...]:
    kind = type(setting.removal).__name__
    return (
        f"{n} image{'s' if n > 1 else ''}. What is removed is replaced by {_REMOVALS.get(kind, kind)}. "
        "“The class” is what the model itself says of the whole image, so every number is about the model, and no "
        "label is used.",
        "Controls rank pixels without asking the model: at random, by brightness, by distance from the centre, by "
        "edges. A map is worth what it adds to them.",
    )


def _checked_methods(methods: str | Sequence[str], train: Tensor | None, fitted: Any) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    strange = [name for name in chosen if name not in METHODS]
    if strange or not chosen:
        raise InputError(f"there is no method {', '.join(strange) or 'given'}: write some of {', '.join(METHODS)}")
    if "diet" in chosen and train is None and fitted is None:
        raise InputError(
            "diet tunes a copy of the model on images: give train=, images like those the model was trained on (no "
            "labels), or fitted=, a copy tuned before"
        )
    return chosen


def _check_words(images: Tensor, names: Sequence[str] | None, labels: Tensor | None, show: int) -> None:
    if names is not None and len(names) != len(images):
        raise InputError(f"{len(names)} names for {len(images)} images: give one for each, or none")
    if labels is not None:
        check_labels(torch.as_tensor(labels), len(images))
