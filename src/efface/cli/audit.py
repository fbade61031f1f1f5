"""`efface audit`: is the concept gone from a file, and what else went?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

import efface.audit
from efface._errors import InputError
from efface.audit.audit import Audit
from efface.audit.vectors import Task
from efface.cli import options, probing
from efface.cli.apply import Saved, filled_as, find_features, load_saved, spread_as
from efface.cli.inputs import choose_features, find_labels
from efface.cli.outputs import check_report, made_by, write_report
from efface.cli.sample import Sample
from efface.cli.settings import configured
from efface.core.method import get_method
from efface.core.provenance import provenance
from efface.engines.local import filled
from efface.streams import Source, column_names, open_source, prefetched, progress
from efface.streams.inputs import Inputs, Labels

_CHUNK_ROWS, _METHOD = 4096, "leace"


@dataclass(frozen=True)
class Rows:
    """The rows that are audited.

    Attributes:
        x: Before `(n, d)`.
        concepts: Labels of each concept.
        task: Labels of the task, if there is one.
        after: After `(n, d)`, if it was given as a file.
        seen: Rows of the file.
    """

    x: Tensor
    concepts: list[Any]
    task: Any
    after: Tensor | None
    seen: int


def run(args: options.Audit) -> None:
    """Audit files or a pipeline, print what follows and write the report."""
    if probing.is_pipeline(args.x):
        probing.run(args)
        return
    probing.refuse_flags(args)
    read = [args.x, *args.concept, args.task, args.after, args.eraser]
    check_report(args.output, force=args.force, read=read, data=[args.x])
    saved = load_saved(args.eraser) if args.eraser else None
    inputs = _find_inputs(args, saved)
    rows = _read(inputs, args)
    if len(rows.x) < rows.seen:
        print(f"a random sample of {len(rows.x)} of {rows.seen} rows (--max-rows, seed {args.seed})")
    names = [labels.name for labels in inputs.labels[: len(args.concept)]]
    erase = _eraser(args, saved, rows, names)
    _say_what_is_audited(args)
    about = provenance(subject=_about(args, saved))["subject"]
    audits = [_audit(args, name, z, rows, erase) for name, z in zip(names, rows.concepts, strict=True)]
    audits = [replace(each, provenance={**each.provenance, "subject": about}) for each in audits]
    audit = audits[0] if len(audits) == 1 else Audit(f"Erasing {', '.join(names)}", parts=tuple(audits))
    write_report(made_by(args, audit, seed=args.seed), args.output)


def _find_inputs(args: options.Audit, saved: Saved | None) -> Inputs:
    """X, and as labels the concepts, then the task, then X after erasure, where they were given."""
    x = open_source(args.x) if saved is None else spread_as(saved, open_source(args.x))
    named = [*args.concept, *([args.task] if args.task else [])]
    labels = [find_labels(spec, x) for spec in named]
    own = [found.column for found in labels if found.source is None and found.column]
    features = _features(args, saved, x, own)
    if args.after:
        labels.append(_after(args.after, x, features))
    means = None if saved is None else filled_as(saved, args.missing)
    return filled(Inputs(x, features, tuple(labels), args.missing, means), _CHUNK_ROWS)


def _features(args: options.Audit, saved: Saved | None, x: Source, own: list[str]) -> tuple[str, ...]:
    if saved is None:
        return choose_features(x, columns=args.columns, exclude=args.exclude, labels=own)
    features = find_features(saved, x, args, own)
    both = sorted({*features} & {*own})
    if both:
        raise InputError(
            f"{', '.join(both)} is one of the columns that the eraser edits: fit it with --exclude {','.join(both)}"
        )
    return features


def _after(spec: str, x: Source, features: tuple[str, ...]) -> Labels:
    source = open_source(spec)
    columns = features if source.shape is None or x.shape is not None else column_names(source)
    return Labels(spec, None, source.select(columns), columns)


def _read(inputs: Inputs, args: options.Audit) -> Rows:
    sample = Sample(args.max_rows, seed=args.seed)
    with progress("reading", inputs.x.rows) as bar, prefetched(inputs.with_numbers(_CHUNK_ROWS)) as pieces:
        for piece, x in pieces:
            sample.update([x, *piece.labels])
            bar.update(len(x))
    if not sample.seen:
        raise InputError(f"{inputs.x.where} has no row without a missing value: nothing is left with --missing drop")
    x, *rest = sample.parts()
    after = rest.pop() if args.after else None
    task = rest.pop() if args.task else None
    return Rows(x, rest, task, after, sample.seen)


Erase = Callable[[Tensor], Any]


def _eraser(args: options.Audit, saved: Saved | None, rows: Rows, names: list[str]) -> dict[str, Any]:
    """The argument of `efface.audit.rows` that gives the eraser; names are those of the concepts."""
    if args.settings and (args.eraser or args.after):
        raise InputError("--set goes with --method: with --eraser and --after nothing is fitted")
    if rows.after is not None:
        return {"erase": _fixed(rows.after)}
    if saved is not None and saved.takes_labels:
        return {"erase": _fixed(saved.erase(rows.x, saved.labels_in_order(rows.concepts, names), 0, args.x))}
    if saved is not None:
        return {"erase": saved.eraser}
    method = get_method(args.method or _METHOD, "rows")
    config = configured(method, args.settings, flags=("kind",))
    if method.labels_at_apply:
        raise InputError(
            f"--method {method.name} needs the labels of the rows that are held out: "
            "fit and apply it, then audit with --after"
        )
    return {"fit": lambda x, z: method.fit(x, z, config)}


def _about(args: options.Audit, saved: Saved | None) -> Any:
    """What the audit is about, for its origin: the eraser, or the file after it, or the method."""
    if args.after:
        return Path(args.after).name
    return (args.method or _METHOD) if saved is None else saved.eraser


def _say_what_is_audited(args: options.Audit) -> None:
    if args.eraser or args.after:
        print("these should be rows that the eraser was not fitted on: on its own rows the audit flatters it")
    else:
        each = ", for each concept by itself" if len(args.concept) > 1 else ""
        method = args.method or _METHOD
        print(f"{method} is fitted anew in each fold, on halves of the rows that are not scored{each}")


def _fixed(after: Tensor) -> Erase:
    return lambda _: after


def _audit(args: options.Audit, name: str, z: Any, rows: Rows, eraser: dict[str, Any]) -> Audit:
    task = None if args.task is None else Task(rows.task, name=args.task)
    numeric = isinstance(z, Tensor) or z.dtype.kind not in "US"
    kind = args.kind if args.kind != "auto" and numeric else None
    return efface.audit.rows(rows.x, z, **eraser, task=task, name=name, kind=kind, seed=args.seed)
