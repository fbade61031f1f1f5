"""`efface fit`: learn from a file how to erase a concept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import CARD, CONFIG, TENSORS, atomic_dir
from efface.cli.concepts import SIDE_FILE, Side
from efface.cli.inputs import choose_features, find_labels, on_ray, split_names
from efface.cli.one_hot import OneHotSource, spread
from efface.cli.options import Fit
from efface.cli.outputs import caution, check_free
from efface.cli.settings import configured
from efface.core.checkpoint import Checkpoint
from efface.core.config import Config
from efface.core.method import Method, get_method
from efface.core.provenance import provenance
from efface.engines.local import filled
from efface.engines.sums import Sums, check_method
from efface.streams import Source, column_names, files_of, named_files, open_source, prefetched, progress, shortened
from efface.streams.concepts import Concept, learn
from efface.streams.inputs import Inputs
from efface.streams.ranges import Columns, Gatherer

_TARGETS = ("label", "labels", "target", "targets", "class", "classes", "outcome", "y")


def run(args: Fit) -> None:
    """Fit an eraser on a file and save it."""
    method = get_method(args.method, "rows")
    config = configured(method, args.settings, flags=("kind",))
    _check_output(args)
    engine = _engine(args)
    inputs = find_inputs(args)
    with engine.ready(inputs.x):
        inputs = engine.filled(inputs, args.chunk_rows)
        concepts = engine.learn_concepts(inputs, args.kind, args.chunk_rows)
        check_method(method, concepts)
        print(f"{inputs.x.where}: {len(inputs.features)} features ({shortened(inputs.features)})")
        fitter, x = engine.gather(inputs, concepts, method, config, args)
    fitter.columns = _names(inputs, fitter.x_dim)
    about = provenance(subject=inputs.x.where, call=args.command_line) | engine.about(fitter, concepts)
    eraser = dataclasses.replace(fitter.eraser, provenance=about)
    one_hot = inputs.x.values if isinstance(inputs.x, OneHotSource) else {}
    side = Side(method.name, fitter.x_dim, _columns(inputs), concepts, {k: tuple(v) for k, v in one_hot.items()}, x)
    with atomic_dir(args.output) as folder:
        eraser.save(folder)
        side.save(folder)
    _print_report(fitter, method, args.output)


class Local:
    """A fit in this process."""

    def ready(self, source: Source) -> Any:
        """A context in which it can run."""
        return contextlib.nullcontext()

    def filled(self, inputs: Inputs, rows: int) -> Inputs:
        """As `filled`."""
        return filled(inputs, rows)

    def learn_concepts(self, inputs: Inputs, kind: str, rows: int) -> tuple[Concept, ...]:
        """What the concepts are, and say so."""
        return learn_concepts(inputs, kind, rows)

    def gather(self, *given: Any) -> tuple[Any, Columns | None]:
        """A fitter that has seen the whole file, and what its columns are like."""
        return _gather(*given)

    def about(self, fitter: Any, concepts: Sequence[Concept]) -> dict[str, Any]:
        """For the provenance."""
        return {}


def _engine(args: Fit) -> Any:
    if not on_ray(args):
        return Local()
    if args.checkpoint is not None:
        raise InputError("--checkpoint is for the local engine: on Ray the work of workers that die is done again")
    from efface.cli.on_ray import OnRay  # a fit in this process needs none of it

    return OnRay(args.address)


def _check_output(args: Fit) -> None:
    path = Path(args.output)
    if path.exists() and not path.is_dir():
        raise InputError(f"-o {args.output} is a file, expected the name of a folder for the eraser")
    if args.checkpoint is not None and Path(args.checkpoint).is_file():
        raise InputError(f"--checkpoint {args.checkpoint} is a file, expected the name of a folder")
    written = [path / name for name in (CONFIG, TENSORS, CARD, SIDE_FILE)]
    read = [*args.x, *named_files(args.x), *args.concept]
    check_free([path, *written], "-o", force=args.force, read=read, data=args.x)
    if args.checkpoint is not None:
        check_free([Path(args.checkpoint)], "--checkpoint", force=True, data=args.x)


def find_inputs(args: Fit) -> Inputs:
    """The features and labels that the user named.

    Raises:
        InputError: If a column is not there, or cannot be what it is named as.
    """
    x = open_source(args.x)
    labels = tuple(find_labels(concept, x) for concept in args.concept)
    own = [found.column for found in labels if found.source is None and found.column]
    task, text = split_names(args.task), split_names(args.one_hot)
    if both := sorted({*text} & {*own, *task}):
        raise InputError(f"--one-hot {', '.join(both)} is a concept or the task, and no feature: choose one")
    x = spread(x, text, args.chunk_rows) if text else x
    features = choose_features(x, columns=args.columns, exclude=args.exclude, labels=[*own, *task])
    if not (args.columns or args.exclude or task):
        _tell_of_targets(x, features)
    return Inputs(x, features, labels, args.missing)


def _tell_of_targets(x: Source, features: Sequence[str]) -> None:
    """Warn of features that are called as what is to be predicted is."""
    if found := [name for name in features if name.lower() in _TARGETS]:
        caution(
            f"{x.where}: {', '.join(found)} is taken for a feature and edited like any other: write --task "
            f"{','.join(found)} if it is to be predicted, --columns to say that it is one"
        )


def learn_concepts(inputs: Inputs, kind: str, rows: int) -> tuple[Concept, ...]:
    """What the concepts are, and say so."""
    names = [labels.name for labels in inputs.labels]
    with progress("labels", inputs.x.rows) as bar, prefetched(inputs.labels_only(rows)) as labels:

        def chunks() -> Any:
            for values, index in labels:
                yield values, index
                bar.update(len(values[0]))

        concepts = learn(names, kind, chunks())
    for concept in concepts:
        print(f"concept {concept}")
    return concepts


def _columns(inputs: Inputs) -> tuple[str, ...] | None:
    whole = inputs.x.shape is not None and inputs.features == column_names(inputs.x)
    return None if whole else inputs.features


def _names(inputs: Inputs, width: int) -> tuple[str, ...]:
    """Names of the columns of x as the eraser keeps them; those of an array are none, nor is that of a list."""
    return inputs.features if inputs.x.shape is None and len(inputs.features) == width else ()


def _settings(inputs: Inputs, concepts: Sequence[Concept], config: Config, args: Fit) -> dict[str, Any]:
    files = [inputs.x, *(labels.source for labels in inputs.labels if labels.source is not None)]
    stats = [each for file in files for each in _stats(file)]
    return {
        "files": stats,
        "features": inputs.features,
        "method": args.method,
        "options": config.to_dict(),
        "concepts": [dataclasses.asdict(concept) for concept in concepts],
        "chunk_rows": args.chunk_rows,
        "missing": args.missing,
    }


def _stats(source: Source) -> list[tuple[str, int, int]]:
    paths = files_of(source)
    names = [source.where] if len(paths) == 1 else map(str, paths)
    return [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in zip(names, paths, strict=True)]


def _gather(
    inputs: Inputs, concepts: Sequence[Concept], method: Method, config: Config, args: Fit
) -> tuple[Any, Columns | None]:
    """A fitter that has seen the whole file, and what its columns are like."""
    elsewhere = "name another folder with --checkpoint"
    checkpoint = Checkpoint(args.checkpoint, _settings(inputs, concepts, config, args), elsewhere=elsewhere)
    fitter, start, ranges = None, 0, Gatherer()
    if checkpoint.found:
        with checkpoint.reading() as position:
            fitter, start = method.fitter.load(checkpoint.path("fitter")), int(position["rows"])  # type: ignore[attr-defined]
            ranges = Gatherer(position["columns"])
        print(f"going on from row {start}, kept in {args.checkpoint}")
    sums = Sums(inputs, method, concepts, config, ranges=ranges)
    sums.fitter, sums.end = fitter, start
    with (
        progress("fitting", inputs.x.rows, done=start) as bar,
        prefetched(inputs.with_numbers(args.chunk_rows, start=start, check=False)) as pieces,
    ):
        for piece, x in pieces:
            before = sums.end
            sums.update(piece, x)
            bar.update(sums.end - before)
            if checkpoint.due():
                checkpoint.write({"rows": sums.end, "columns": ranges.kept()}, {"fitter": sums.fitter.save})
    checkpoint.clear()
    if sums.fitter is None:
        raise InputError(f"{inputs.x.where} has no row without a missing value: nothing is left with --missing drop")
    return sums.fitter, ranges.columns()


def _print_report(fitter: Any, method: Method, output: str) -> None:
    report = dataclasses.asdict(fitter.report)
    print(f"{method.name}: rank {report.get('rank')} from {report.get('n')} rows")
    if report.get("edit") is not None:
        print(f"edit size: {report['edit']:.3g} of the variance of X")
    if report.get("residual") is not None:
        print(f"residual: {report['residual']:.1e}, the largest correlation of a feature with the concept left, in the")
        print("  rows of the fit; on others more is left, and efface audit says how much")
    print(f"eraser saved in {output}")
    if method.labels_at_apply:
        print("this method needs the labels when it is applied: efface apply ... --concept ...")
