"""`efface remember`: who and what else an erasure suppressed or elevated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

import efface.audit
from efface._errors import InputError
from efface.audit.remembrance import Ledger, Registry
from efface.audit.remembrance.ledger_file import is_ledger, read_ledger
from efface.cli import options
from efface.cli.outputs import check_report, made_by, write_report
from efface.streams import Source, column_names, open_source, shortened, split_spec

_ROWS = 65_536
_KNOWN = ("popularity", "similarity", "relation")


def run(args: options.Remember) -> None:
    """Read what was said, print what follows and write the report; with --strict exit with 1 if it is bad."""
    read = [args.before, args.after, args.truth, args.again, *args.placebo, args.who]
    check_report(args.output, force=args.force, read=read)
    ledger = _predictions(args) if args.after else _answers(args)
    audit = efface.audit.remembered(
        ledger,
        registry=_who(args, ledger),
        resample=args.resample or ("queries" if args.after else "both"),
        margin=args.margin,
        draws=args.draws,
        listed=args.listed,
        seed=args.seed,
    )
    audit = made_by(args, audit, seed=args.seed)
    write_report(audit, args.output)
    certified = any(line.startswith("Certified") for line in audit.conclusions)
    if args.strict and (audit.warnings or not certified):
        raise typer.Exit(1)


def _predictions(args: options.Remember) -> Ledger:
    if args.truth is None:
        raise InputError("--truth is missing: name the column of who should have been named, as said.csv:class")
    if args.merit is not None:
        raise InputError("--merit goes with a table of answers: with AFTER the true class of each row has merit 1")
    columns = {name: _column(spec) for name, spec in (("truth", args.truth), ("before", args.before))}
    again = None if args.again is None else _column(args.again)
    after = _column(args.after or "")
    return Ledger.of_predictions(**columns, after=after, again=again, placebos=[_column(s) for s in args.placebo])


def _answers(args: options.Remember) -> Ledger:
    if args.truth or args.again or args.placebo:
        raise InputError("--truth, --again and --placebo go with AFTER: in a table of answers these are arms")
    path = Path(args.before)
    if is_ledger(path):
        return read_ledger(path)
    return Ledger.of_table(_table(args.before), merit=args.merit)


def _who(args: options.Remember, ledger: Ledger) -> Registry:
    if args.who is None:
        return Registry.of(ledger.entities, target=args.target)
    table = _table(args.who)
    if "id" not in table:
        raise InputError(f"--who {args.who} has no column id; it has {shortened(list(table), count=20)}")
    known: dict[str, Any] = {name: table[name] for name in _KNOWN if name in table}
    groups = {name: values.astype(str).tolist() for name, values in table.items() if name not in ("id", *_KNOWN)}
    if "relation" in known:
        known["relation"] = known["relation"].astype(str).tolist()
    return Registry.of(table["id"].astype(str).tolist(), groups=groups, **known)


def _column(spec: str) -> NDArray[Any]:
    """One column of a file: `said.npy`, `said.csv:before`."""
    source, name = open_source(spec), split_spec(spec)[1]
    names = list(column_names(source))
    if source.shape is None and name is None and len(names) > 1:
        raise InputError(f"{spec} has several columns ({shortened(names, count=20)}): choose one, {spec}:{names[0]}")
    if source.shape is not None and len(names) > 1:
        raise InputError(f"{spec} has {len(names)} columns: give what was said of each row, one value")
    column = names[0] if source.shape is not None or name is None else name
    return _values(source, [column])[column]


def _table(spec: str) -> dict[str, NDArray[Any]]:
    source = open_source(spec)
    if source.shape is not None:
        raise InputError(f"{spec} is an array: give a table (.csv or .parquet), or what was said after as AFTER")
    return _values(source, column_names(source))


def _values(source: Source, columns: Any) -> dict[str, NDArray[Any]]:
    chosen = source.select([], list(columns)) if source.shape is None else source
    parts: dict[str, list[Any]] = {name: [] for name in columns}
    for chunk in chosen.chunks(_ROWS):
        for name, found in parts.items():
            found.append(np.asarray(chunk.labels(name)))
    return {name: np.concatenate(found) for name, found in parts.items()}
