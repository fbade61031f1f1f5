"""The registry of methods, one for all subjects: a method registers itself in its own file, everything else iterates.

Calls, command line, plan files, tables of the docs, error texts and the shared test-suite are made from it, so that
adding a method is adding a file.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from efface._errors import InputError, NotReadWarning
from efface._lazy import require
from efface._validate import did_you_mean
from efface.core.arrays import is_plain
from efface.core.concept import Concept
from efface.core.config import Config
from efface.core.cost import Clock
from efface.core.discovery import discover
from efface.core.doors import check_call, check_fields
from efface.core.fingerprint import fingerprint
from efface.core.provenance import called, provenance
from efface.core.subjects import KINDS, Kind, Subject, as_subject

Field = Literal["synonyms", "erase_from", "anchor", "preserve", "templates", "neutral", "labels"]
"""What a concept says besides its name."""

Reads: TypeAlias = Callable[[Any, Mapping[str, Any]], tuple[Field, ...]]
"""Which fields of a concept a fit reads, by its options and its data."""

Access = Literal["rows", "labels", "prompts", "embeddings", "latents", "gradients", "weights"]
"""What a fit, or what is fitted, needs of its subject."""


@dataclass(frozen=True, eq=False)
class Method:
    """One way to erase a concept.

    Attributes:
        name: What users type, e.g. `"leace"`.
        subjects: What it erases from: `"rows"`, `"model"`, `"pipeline"`, `"classifier"`.
        summary: One line for tables and `--help`.
        paper: Where it comes from, e.g. `"arXiv:2306.03819"`.
        fit: `(view, concepts, config, **data) -> Erasure`; `data` are its keyword-only parameters. Of rows and models,
            `concepts` are labels.
        erasure: Class of the fitted value.
        config: Class of its options.
        fitter: Class that gathers statistics by `update(x, z)` and yields `.eraser`; of rows only.
        access: What the fit needs of the subject.
        access_on: What putting it on needs.
        guarantee: What holds after a fit, in one sentence.
        no_guarantee: What does not.
        concepts: Which kinds of labels it takes, of rows and models.
        labels_at_apply: Whether it is called as `erasure(x, z)`.
        single: Whether it erases one concept at a time.
        requires: Module that it needs -> the extra of efface that brings it.
        reads: Which fields of a concept its fit may read; `efface.erase` warns of all else that a concept says.
        reads_with: Which of them it reads, where that depends on options or data; None if it does not.
    """

    name: str
    subjects: tuple[Kind, ...]
    summary: str
    paper: str
    fit: Callable[..., Any]
    erasure: type
    config: type[Config] = Config
    fitter: Any = None
    access: tuple[Access, ...] = ()
    access_on: tuple[Access, ...] = ()
    guarantee: str = ""
    no_guarantee: str = ""
    concepts: tuple[str, ...] = ("categorical", "continuous")
    labels_at_apply: bool = False
    single: bool = False
    requires: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[Field, ...] = ()
    reads_with: Reads | None = None
    data: tuple[str, ...] = field(init=False)
    """What `fit` takes besides the concept and its options."""

    def __post_init__(self) -> None:
        check_fields(self)
        if unknown := set(self.subjects) - set(KINDS):
            raise InputError(f"unknown subject {unknown.pop()!r}: choose of {', '.join(KINDS)}")
        parameters = inspect.signature(self.fit).parameters.values()
        object.__setattr__(self, "data", tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY))

    def configured(self, given: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
        """Options by name as a config, and what is data for the fit.

        Raises:
            InputError: If a name is unknown or a value is out of range.
        """
        check_call(Method.configured, locals())
        data = {name: value for name, value in given.items() if name in self.data}
        options = {name: value for name, value in given.items() if name not in data}
        return self.config.of(options, method=self.name, more=self.data), data

    def unread(self, concept: Concept, config: Config, data: Mapping[str, Any]) -> tuple[str, ...]:
        """What a concept says that the fit does not read.

        Args:
            concept: The concept.
            config: The options.
            data: What else the fit is given.
        """
        check_call(Method.unread, locals())
        read = self.reads if self.reads_with is None else self.reads_with(config, data)
        return tuple(name for name in concept.said if name not in read)


_HASHED = 2**28
"""Bytes of an array up to which its content is hashed for the provenance of an erasure."""

_METHODS: dict[tuple[Kind, str], Method] = {}


def register(method: Method) -> Method:
    """Add a method; a second one of the same subject and name is an error."""
    for subject in method.subjects:
        known = _METHODS.get((subject, method.name), method)
        if known is not method:
            raise InputError(f"a method {method.name!r} for {subject} is already registered: {known.erasure}")
    _METHODS.update({(subject, method.name): method for subject in method.subjects})
    return method


def unregister(method: Method) -> None:
    """Take a method out again, as after a test."""
    for subject in method.subjects:
        _METHODS.pop((subject, method.name), None)


def methods(subject: Kind | Any = None) -> tuple[Method, ...]:
    """All registered methods, or those for one subject, in order of name, those of one name in order of subject.

    Args:
        subject: `"rows"`, `"model"`, `"pipeline"`, `"classifier"`, or a thing that is one of them; None takes all.
    """
    discover()
    kinds = KINDS if subject is None else _kinds_of(subject)
    found = {id(m): m for (kind, _), m in _METHODS.items() if kind in kinds}
    return tuple(sorted(found.values(), key=lambda m: (m.name, _rank(m))))


def _rank(method: Method) -> int:
    """Where the first of its subjects stands: rows, then models, and so on."""
    return min(KINDS.index(kind) for kind in method.subjects)


def _kinds_of(subject: Any) -> tuple[Kind, ...]:
    if isinstance(subject, str):
        if subject not in KINDS:
            raise InputError(f"unknown subject {subject!r}: choose one of {', '.join(KINDS)}")
        return (subject,)  # type: ignore[return-value]
    kind = as_subject(subject).kind
    return ("model", "classifier") if kind == "model" else (kind,)


def get_method(name: str, subject: Kind | Any = None) -> Method:
    """The registered method of that name.

    Args:
        name: Its name.
        subject: For what; None takes the only one of that name, or else that for rows.

    Raises:
        InputError: If there is none; the text lists those there are, and names what comes near.
    """
    check_call(get_method, locals())
    known = methods(subject)
    found = [m for m in known if m.name == name]
    if not found:
        raise InputError(_no_method(name, subject, known))
    return min(found, key=_rank)


def _no_method(name: str, subject: Any, known: tuple[Method, ...]) -> str:
    hint = did_you_mean(str(name), [m.name for m in known])
    kind = subject if isinstance(subject, str) else "/".join(_kinds_of(subject)) if subject is not None else ""
    elsewhere = [m for m in methods() if m.name == name]
    if elsewhere:
        from_ = [kind for kind in KINDS if any(kind in m.subjects for m in elsewhere)]
        return (
            f"method {name!r} erases from {' and '.join(from_)}, not from {kind}: "
            f"choose one of {', '.join(m.name for m in known)}"
        )
    return f"unknown method {name!r}{hint}: choose one of {', '.join(dict.fromkeys(m.name for m in known))}"


def erase(subject: Any, concept: Any, method: str | None = None, **options: Any) -> Any:
    """Fit an erasure of a concept; the subject is left as it is.

    Args:
        subject: An array of rows `(n, d)`, a PyTorch model, or a diffusers pipeline.
        concept: Of rows and models its labels, `(n,)` or one a token, or a `Concept` with labels; of a pipeline a word,
            a `Concept`, or a list of these for methods that erase several at once.
        method: Name of a method; see `efface.methods(subject)`. None takes `"leace"` for rows and models.
        **options: Options of the method, and what else its fit takes, such as `data=` and `sites=` for a model.

    Returns:
        The erasure: call it on rows, `erasure(x)`; put it on with `with erasure.on(subject):`; `erasure.save(folder)`.

    Raises:
        InputError: If there is no such method or option (the text lists those there are), or the concept does not suit.
        MissingExtraError: If the method needs a package that is not installed.
    """
    check_call(erase, locals())
    found = as_subject(subject)
    if method is None:
        if found.kind == "pipeline":
            names = ", ".join(m.name for m in methods("pipeline"))
            raise InputError(f"name a method, erase(pipe, concept, method=...): one of {names}")
        method = "leace"
    chosen = get_method(method, found)
    config, data = chosen.configured(options)
    for module, extra in chosen.requires.items():
        require(module, extra=extra)
    call = called("efface.erase", {"subject": subject, "concept": concept, "method": method, **options})
    clock = Clock()
    if found.kind == "pipeline":
        concepts = _concepts(chosen, concept)
        _tell_unread(chosen, concepts, config, data)
        erasure = chosen.fit(found.view, concepts, config, **data)
    else:
        labels = _labels(concept)
        if isinstance(concept, Concept):
            _tell_unread(chosen, [dataclasses.replace(concept, labels=None)], config, data)
        erasure = chosen.fit(found.view, labels, config, **data)
        data = {"labels": labels, **data}
        if isinstance(concept, Concept):
            erasure = dataclasses.replace(erasure, concepts=(dataclasses.replace(concept, labels=None),))
    about = {"cost": clock.cost(getattr(found.view, "device", None)), **_about(found, data, config, call)}
    if "embeddings" in chosen.access:  # they mean something for these text encoders alone
        about["weights"] = {name: fingerprint(part) for name, part in found.view.text_encoders.items()}
    return dataclasses.replace(erasure, provenance={**erasure.provenance, **about})


def _concepts(method: Method, concept: Any) -> tuple[Concept, ...]:
    concepts = Concept.each(concept)
    if method.single and len(concepts) > 1:
        raise InputError(
            f"method {method.name!r} erases one concept, not {len(concepts)}: fit one erasure for each, and join them "
            "with  a & b"
        )
    return concepts


def _tell_unread(method: Method, concepts: Sequence[Concept], config: Config, data: Mapping[str, Any]) -> None:
    """Warn of what concepts say without effect."""
    found = {each.name: method.unread(each, config, data) for each in concepts}
    said = "; ".join(f"{', '.join(fields)} of {name!r}" for name, fields in found.items() if fields)
    if not said:
        return
    fields = {field for each in found.values() for field in each}
    others = [m.name for m in methods(method.subjects[0]) if m is not method and fields <= set(m.reads)]
    hint = f"; what does is {', '.join(others)}" if others else ""
    warnings.warn(
        f"method={method.name!r}, with these options, does not read {said}: it erases the same without{hint}",
        NotReadWarning,
        stacklevel=3,
    )


def _labels(concept: Any) -> Any:
    if not isinstance(concept, Concept):
        return concept
    if concept.labels is None:
        raise InputError(f"the concept {concept.name!r} has no labels: write Concept({concept.name!r}, labels=z)")
    return concept.labels


def _about(subject: Subject, data: Mapping[str, Any], config: Config, call: str) -> dict[str, Any]:
    """Where an erasure comes from; content that would take long to hash is named only."""
    arrays = {name: value for name, value in data.items() if 0 < _size(value) <= _HASHED}
    thing = subject.thing
    if isinstance(thing, nn.Module):
        thing = {"name": type(thing).__name__, "sha256": ""}
    elif subject.kind == "rows" and not 0 < _size(thing) <= _HASHED:
        thing = {"name": called("", {"": thing})[2:-1], "sha256": ""}
    return provenance(subject=thing, data=arrays, seed=getattr(config, "seed", None), call=call)


def _size(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, Tensor) and not is_plain(value):
        return 0
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0
