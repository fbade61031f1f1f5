"""How well an erasure's gate tells prompts with its concepts from others: a threat detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from efface._errors import InputError
from efface._text import shown
from efface.audit.audit import Audit
from efface.audit.pipelines.detection import Readings, detection
from efface.audit.pipelines.erasures import Gated
from efface.audit.pipelines.pipeline import as_view
from efface.audit.subjects import PipelineSubject
from efface.core.provenance import called, provenance


def gate(
    subject: Any,
    erasure: Gated,
    *,
    present: Sequence[str] | Mapping[str, Sequence[str]],
    absent: Sequence[str] | Mapping[str, Sequence[str]],
    title: str = "",
) -> Audit:
    """Read prompts with and without an erasure's concepts by its gate, and draw ROC curves.

    Args:
        subject: A diffusers pipeline, or a view of one.
        erasure: One that acts on some prompts and leaves others alone, such as Semantic Surgery or CGCE.
        present: Prompts that ask for the concept; of several concepts, concept -> prompts.
        absent: Prompts that do not; for all concepts, or concept -> prompts.
        title: Title of the audit.

    Raises:
        InputError: If the erasure has no gate, prompts of a concept are missing, or there are under 5 of a kind.
    """
    call = called("efface.audit.gate", locals())
    view = as_view(subject)
    if not isinstance(erasure, Gated):
        raise InputError(f"{shown(erasure)} acts on every prompt, and has no gate to audit: use efface.audit.pipeline")
    names, readings = erasure.names, {}
    for i, name in enumerate(names):
        sides = {
            which: _prompts_of(which, given, name, len(names))
            for which, given in (("present", present), ("absent", absent))
        }
        readings[name] = Readings(**{which: _read(view, erasure, texts, i) for which, texts in sides.items()})
    audit = detection(readings, title=title or f"Where does the gate of {', '.join(names)} fire?")
    return replace(audit, provenance=provenance(subject=[view.pipe, erasure], call=call))


def _read(view: PipelineSubject, erasure: Gated, prompts: Sequence[str], concept: int) -> Any:
    read = erasure.reading(view.encode(prompts, allow_unknown=True))[:, concept]
    return read.double().cpu().numpy()


def _prompts_of(which: str, given: Sequence[str] | Mapping[str, Sequence[str]], name: str, concepts: int) -> list[str]:
    if isinstance(given, str):
        raise InputError(f"{which} is one string: write a list, {which}=[{given!r}]")
    if isinstance(given, Mapping):
        if name not in given:
            raise InputError(f"{which} has no prompts of {name!r}: it has {', '.join(given) or 'none'}")
        return list(given[name])
    if which == "present" and concepts > 1:
        raise InputError(f"several concepts are erased: write present={{{name!r}: [...], ...}}")
    return list(given)
