"""`efface apply`: erase a concept from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from efface._errors import InputError
from efface.cli.concepts import Side, load_side
from efface.cli.inputs import choose_features, find_labels, on_ray
from efface.cli.one_hot import OneHotSource
from efface.cli.options import Apply, Chosen, Missing
from efface.cli.outputs import caution, check_free
from efface.cli.ranges import Change
from efface.core.erasure import load
from efface.engines.writing import Order, without
from efface.erasers.base import Eraser
from efface.streams import (
    SUFFIXES,
    TABLES,
    Source,
    column_names,
    files_of,
    open_sink,
    open_source,
    prefetched,
    progress,
    shortened,
)
from efface.streams.concepts import Concept, joint
from efface.streams.inputs import Inputs, Labels
from efface.streams.source import Index


@dataclass(frozen=True)
class Saved:
    """An eraser from a folder.

    Attributes:
        eraser: The value.
        side: What `efface fit` noted beside it, if it was made by that.
        takes_labels: Whether it is called as `eraser(x, z)`.
    """

    eraser: Any
    side: Side | None
    takes_labels: bool

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns of the fit, as the command or Python noted them."""
        noted = None if self.side is None else self.side.columns
        return noted or self.eraser.columns or None

    def erase(self, x: Tensor, values: Sequence[Any], index: Index, name: str) -> Tensor:
        """The rows, which have these numbers and are called so, without the concept."""
        return without(self.eraser, x, joint(self.concepts, values, index) if self.takes_labels else None, name)

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """What was erased.

        Raises:
            InputError: If that is not known.
        """
        if self.side is None:
            raise InputError("this eraser needs labels and was not made by efface fit: apply it in Python")
        return self.side.concepts

    def labels_in_order(self, found: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """What belongs to each concept, in the order of the fit; as it came where it goes by other names."""
        concepts = [] if self.side is None else [concept.name for concept in self.side.concepts]
        by_name = dict(zip(names, found, strict=True))
        return [by_name[name] for name in concepts] if {*concepts} == {*names} else list(found)


def load_saved(folder: str) -> Saved:
    """The eraser in a folder.

    Raises:
        FileNotFoundError: If there is none.
        FormatError: If it is damaged or newer.
    """
    eraser = load(folder)
    if not isinstance(eraser, Eraser):
        raise InputError(f"{folder} holds a {type(eraser).__name__}, which does not erase from tables of numbers")
    return Saved(eraser, load_side(Path(folder)), eraser.takes_labels)


def run(args: Apply) -> None:
    """Erase from files and write the result."""
    on = on_ray(args)
    saved = load_saved(args.eraser)
    inputs = find_inputs_for(saved, spread_as(saved, open_source(args.x)), args)
    if on:
        _on_ray(saved, inputs, args)
    else:
        _here(saved, inputs, args)


def _here(saved: Saved, inputs: Inputs, args: Apply) -> None:
    """Erase in this process, into one file."""
    _check_output(args, inputs)
    change, total, name = _change(saved), 0, f"{shortened(inputs.features)} of {inputs.x.where}"
    with (
        progress("applying", inputs.x.rows) as bar,
        open_sink(args.output, like=inputs.x, features=inputs.features) as sink,
        prefetched(inputs.with_numbers(args.chunk_rows, rest=True)) as pieces,
    ):
        for piece, x in pieces:
            erased = saved.erase(x, piece.labels, piece.chunk.index, name)
            sink.write(piece.chunk.replace(inputs.features, erased))
            change.update(x, erased)
            bar.update(piece.end - total)
            total = piece.end
        _check_rows(inputs, change.rows)
    print(f"{args.output}: {change.rows} rows, {_changed(inputs)}")
    _print_change(inputs, change, total - change.rows)
    _print_others(inputs, into_table=Path(args.output).suffix.lower() in TABLES)


def _on_ray(saved: Saved, inputs: Inputs, args: Apply) -> None:
    """Erase in tasks of Ray, into a folder."""
    order, folder = _order(saved, inputs, args), Path(args.output)
    from efface.cli.on_ray import erase_files  # what runs in this process needs none of it

    done = erase_files(order, inputs.x, args.x, folder, partial(_change, saved), args.address)
    kept = sum(each["kept"] for each in done.records)
    _check_rows(inputs, done.rows)
    print(f"{folder}: {done.rows} rows in {len(done.records)} files, {_changed(inputs)}")
    if kept:
        print(f"{kept} of the files were done before; what follows is of the others")
    _print_change(inputs, done.seen, (inputs.x.rows or 0) - done.rows)
    _print_others(inputs, into_table=True)


def _order(saved: Saved, inputs: Inputs, args: Apply) -> Order:
    """What each task does.

    Raises:
        InputError: If something is asked for that goes in one process only.
    """
    if args.force:
        raise InputError(
            "--force is for the local engine: on Ray what is done is left, and gone on from; to begin anew delete "
            f"{args.output}"
        )
    if Path(args.output).suffix.lower() in SUFFIXES:
        raise InputError(f"-o {args.output}: with --engine ray this is a folder, in which each file has its own name")
    odd = next((file for file in files_of(inputs.x) if file.suffix.lower() != ".parquet"), None)
    if odd is not None:
        raise InputError(f"{odd} is no .parquet file: write it as one, or leave out --engine ray")
    for labels in inputs.labels:
        if labels.source is not None:
            raise InputError(
                f"--concept {labels.spec} is a file: on Ray labels are columns of X, write them there, or leave out "
                "--engine ray"
            )
    text = {} if saved.side is None else saved.side.one_hot
    return Order(
        saved.eraser,
        inputs.features,
        tuple(labels.column for labels in inputs.labels if labels.column is not None),
        saved.concepts if saved.takes_labels else (),
        args.missing,
        inputs.means,
        partial(OneHotSource, values=text) if text else None,
        args.chunk_rows,
    )


def _change(saved: Saved) -> Change:
    return Change(None if saved.side is None else saved.side.x)


def _check_output(args: Apply, inputs: Inputs) -> None:
    path = Path(args.output)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"-o {args.output}: expected a suffix of {' '.join(SUFFIXES)}, or --engine ray for a folder")
    sources = [inputs.x, *(labels.source for labels in inputs.labels if labels.source is not None)]
    read = [file for source in sources for file in files_of(source)]
    check_free([path], "-o", force=args.force, read=[*read, args.eraser], data=args.x)


def find_inputs_for(saved: Saved, source: Source, args: Apply) -> Inputs:
    """The columns of a file that an eraser is for, and the labels that it needs.

    Raises:
        InputError: If the file is not as wide as the eraser, or labels are missing.
    """
    labels = _labels(saved, source, args.concept) if saved.takes_labels else ()
    own = [found.column for found in labels if found.source is None and found.column]
    features = find_features(saved, source, args, own)
    return Inputs(source, features, labels, args.missing, filled_as(saved, args.missing))


def find_features(saved: Saved, source: Source, args: Chosen, labels: Sequence[str]) -> tuple[str, ...]:
    """The columns of a file that an eraser is for.

    Raises:
        InputError: If the file has not those that it was fitted on, or not as many.
    """
    fitted = saved.columns if source.shape is None else None if saved.side is None else saved.side.columns
    features = None if args.columns or args.exclude else fitted
    if features is None:
        features = choose_features(source, columns=args.columns, exclude=args.exclude, labels=labels)
        features = in_order(features, fitted or ())
    known = {*column_names(source)}
    missing = [name for name in features if name not in known]
    if missing:
        raise InputError(
            f"{source.where} has no column {shortened(missing)}, which the eraser was fitted on: "
            "name the columns that take their place, in the same order, with --columns"
        )
    _check_width(saved.side, source, features)
    return features


def in_order(features: tuple[str, ...], fitted: Sequence[str]) -> tuple[str, ...]:
    """Chosen columns in the order of the fit, where they are its own.

    Raises:
        InputError: If some of them are, and stand in the place of others.

    >>> in_order(("bmi", "age"), ("age", "bmi")), in_order(("age", "weight"), ("age", "bmi"))
    (('age', 'bmi'), ('age', 'weight'))
    """
    if {*features} == {*fitted}:
        return tuple(fitted)
    own = set(fitted)
    moved = [a for a, b in zip(features, fitted, strict=False) if a != b and a in own]
    if moved:
        raise InputError(
            f"{shortened(moved)} would take the place of other columns, as the eraser was fitted on "
            f"{shortened(fitted, count=20)}: name with --columns those that take their places, in the same order"
        )
    return features


def _check_width(side: Side | None, source: Source, features: Sequence[str]) -> None:
    lists = {column.name for column in source.columns if column.kind == "list"}
    if side is not None and len(features) != side.x_dim and not lists & {*features}:
        raise InputError(
            f"{source.where} has {len(features)} features ({shortened(features)}), the eraser was fitted on "
            f"{side.x_dim}: give it the same columns, chosen with --columns if need be"
        )


def _labels(saved: Saved, source: Source, specs: Sequence[str] | None) -> tuple[Labels, ...]:
    """The labels named by the user, or the columns that have the names of the fitted concepts."""
    concepts = saved.concepts
    if not specs and not all(concept.name in column_names(source) for concept in concepts):
        raise InputError(
            "this eraser needs the labels of each row: write --concept "
            + " --concept ".join(concept.name for concept in concepts)
        )
    specs = specs or [concept.name for concept in concepts]
    if len(specs) != len(concepts):
        raise InputError(f"--concept was given {len(specs)} times, the eraser was fitted on {len(concepts)} concepts")
    found = [find_labels(spec, source) for spec in specs]
    return tuple(saved.labels_in_order(found, [labels.name for labels in found]))


def spread_as(saved: Saved, source: Source) -> Source:
    """The file with those columns of text spread that were features in the fit."""
    return OneHotSource(source, saved.side.one_hot) if saved.side is not None and saved.side.one_hot else source


def filled_as(saved: Saved, missing: Missing | None) -> Tensor | None:
    """What stands for missing values: the means of the rows of the fit.

    Raises:
        InputError: If they are not known.
    """
    if missing != "mean":
        return None
    if saved.side is None or saved.side.x is None:
        raise InputError(
            "--missing mean takes the means of the rows of the fit, which were not kept: write --missing drop"
        )
    return saved.side.x.mean


def _check_rows(inputs: Inputs, rows: int) -> None:
    if not rows:
        raise InputError(
            f"{inputs.x.where} has no row without a missing value: nothing is left with --missing {inputs.missing}"
        )


def _changed(inputs: Inputs) -> str:
    return f"{len(inputs.features)} columns changed ({shortened(inputs.features)})"


def _print_change(inputs: Inputs, change: Change, left_out: int) -> None:
    if left_out:
        print(f"{left_out} rows with missing values were left out")
    if not change.rows:
        return
    print(f"edit size: {change.size:.3g} of the variance of X")
    if most := change.most(inputs.features):
        print(f"of the variance of each column: {most}")
    for line in change.outside(inputs.features):
        caution(line)


def _print_others(inputs: Inputs, *, into_table: bool) -> None:
    changed = {*inputs.features}
    kept = [name for name in column_names(inputs.x) if name not in changed]
    if inputs.x.shape is None and kept:
        what = "kept as they were" if into_table else "not written, as an array has no room for them"
        print(f"other columns {what}: {shortened(kept, count=20)}")
    types = {c.type for c in inputs.x.columns if c.name in changed and c.type.startswith(("int", "uint", "bool"))}
    if types:
        print(f"columns of {', '.join(sorted(types))} became floating point: what is erased is no whole number")
