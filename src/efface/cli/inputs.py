"""What the user named on the command line: which columns are features, where the labels are."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from efface._errors import InputError
from efface._validate import did_you_mean
from efface.cli.options import Apply, Fit
from efface.streams import SUFFIXES, Source, column_names, open_source, shortened, split_spec
from efface.streams.inputs import Labels


def on_ray(args: Fit | Apply) -> bool:
    """Whether the user asked for Ray, which is installed then.

    Raises:
        InputError: If an address is given without it.
        MissingExtraError: If it is not installed.
    """
    if args.engine == "local":
        if args.address is not None:
            raise InputError("--address goes with --engine ray")
        return False
    from efface.engines import cluster  # what runs in this process needs none of it

    cluster.ray_module()
    return True


def find_labels(spec: str, x: Source) -> Labels:
    """Labels in a column of X (`sex`), or in another file (`z.npy`, `z.npz:z`, `z.csv:sex`).

    Raises:
        InputError: If it is neither; the text lists the columns that there are.
    """
    names = column_names(x)
    if spec in names:
        return Labels(spec, spec)
    path, name = split_spec(spec)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"--concept {spec!r} is neither a column of {x.where} (it has {shortened(names, count=20)}) nor a file "
            f"({' '.join(SUFFIXES)}){did_you_mean(spec, names)}"
        )
    source = open_source(spec)
    if source.shape is not None:
        several = len(source.shape) == 2 and source.shape[1] > 1
        return Labels(spec, None, source, column_names(source)) if several else Labels(spec, "0", source)
    names = column_names(source)
    if name is None and len(names) > 1:
        raise InputError(f"{spec} has several columns ({shortened(names, count=20)}): choose one, {spec}:{names[0]}")
    column = name or next(iter(names))
    return Labels(spec, column, source.select([], [column]))


def split_names(text: str | None) -> list[str]:
    """Names separated by commas; a name that has a comma itself is put in double quotes.

    >>> split_names('age,"x, y"')
    ['age', 'x, y']
    """
    return next(csv.reader([text])) if text else []


def choose_features(x: Source, *, columns: str | None, exclude: str | None, labels: Sequence[str]) -> tuple[str, ...]:
    """The columns that are X: those asked for, or all that are neither excluded nor labels nor the rows' names.

    Raises:
        InputError: If one of them holds no numbers; the text says what to write instead.
    """
    _check_two_dimensional(x)
    wanted, left_out = split_names(columns), split_names(exclude)
    known = {column.name: column for column in x.columns}
    x.select([*wanted, *left_out], labels)
    both = sorted({*wanted} & {*labels, *left_out})
    if both:
        raise InputError(f"{', '.join(both)} cannot be in --columns and be a concept or in --exclude: choose one")
    plain = [name for name, column in known.items() if not column.is_index]
    others = {*left_out, *labels}
    found = wanted or [name for name in plain if name not in others]
    _check_numbers(x, [name for name in found if known[name].kind == "other"], [*left_out])
    lists = [name for name in found if known[name].kind == "list"]
    if lists and not wanted and len(found) > 1:
        raise InputError(
            f"{x.where} has lists of numbers ({', '.join(lists)}) beside other columns "
            f"({shortened([n for n in found if n not in lists])}): choose with --columns {lists[0]}"
        )
    if not found:
        raise InputError(f"{x.where} has no columns left to erase from: it has {shortened(list(known), count=20)}")
    return tuple(found)


def _check_two_dimensional(x: Source) -> None:
    if x.shape is not None and len(x.shape) != 2:
        raise InputError(f"{x.where} has shape {x.shape}, expected (n, d): save array.reshape(-1, 1)")


def _check_numbers(x: Source, names: Sequence[str], left_out: Sequence[str]) -> None:
    if names:
        types = {column.name: column.type for column in x.columns}
        listed = shortened([f"{name} ({types[name]})" for name in names], count=20)
        line = ",".join(f'"{n}"' if "," in n else n for n in [*left_out, *names])
        raise InputError(f"{x.where} has columns that hold no numbers: {listed}: leave them out with --exclude {line}")
