"""`efface remember`: who and what else an erasure suppressed or elevated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

import efface.audit
from efface._errors import InputError
from efface._validate import did_you_mean
from efface.audit.remembrance import Ledger, Registry, StreamedLedger
from efface.audit.remembrance.columns import MERIT_TWICE
from efface.audit.remembrance.language_models import is_language_model
from efface.audit.remembrance.ledger_file import is_ledger, read_ledger
from efface.cli import options
from efface.cli.asking import asked, published
from efface.cli.functions import is_function
from efface.cli.outputs import check_report, made_by, write_report
from efface.cli.reading import predicted
from efface.streams import Chunk, Source, column_names, open_source, shortened, split_spec

_ROWS = 65_536
_KNOWN = ("aliases", "popularity", "similarity", "relation")
_IDS = ("entity", "query", "arm", "id")
_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def run(args: options.Remember) -> None:
    """Read what was said, print what follows and write the report; with --strict exit with 1 if it is bad."""
    read = [args.before, args.after, args.truth, args.again, *args.placebo, args.who, args.ask, args.texts]
    check_report(args.output, force=args.force, read=read)
    _check_kind(args)
    shown = {name: getattr(args, name) for name in ("margin", "draws", "listed", "seed")}
    if args.texts is not None:
        who = None if args.who is None else _registry(args)
        audit = predicted(args, who, _column, shown | {"resample": args.resample or "queries"})
    else:
        ledger, registry = _read(args)
        of_rows = args.after and args.ask is None and args.format is None
        resample = args.resample or ("queries" if of_rows else "both")
        audit = efface.audit.remembered(ledger, registry=registry, resample=resample, **shown)
    audit = made_by(args, audit, seed=args.seed)
    write_report(audit, args.output)
    certified = any(line.startswith("Certified") for line in audit.conclusions)
    if args.strict and (audit.warnings or not certified):
        raise typer.Exit(1)


def _read(args: options.Remember) -> tuple[Ledger | StreamedLedger, Registry]:
    if args.format is not None:
        return published(args)
    if args.ask is not None:
        return asked(args, _table(args.ask), None if args.who is None else _registry(args))
    if args.after is None and args.stream:
        rows = StreamedLedger(args.before, merit=args.merit)
        return rows, _who(args, rows)
    ledger = _predictions(args) if args.after else _answers(args)
    return ledger, _who(args, ledger)


def _check_kind(args: options.Remember) -> None:
    """Refuse options that belong to another way of giving answers."""
    if args.texts is not None:
        return _check_texts(args)
    if odd := [f"--{name}" for name in ("length", "fewest") if getattr(args, name) is not None]:
        raise InputError(f"{odd[0]} goes with --texts")
    asking = args.ask is not None or args.format is not None
    given = [f"--{name}" for name in ("truth", "merit") if getattr(args, name) is not None]
    if asking and (given or args.stream):
        raise InputError(
            f"{', '.join([*given, *(['--stream'] if args.stream else [])])} goes without --ask and --format"
        )
    if args.format is not None and (args.target or args.who):
        raise InputError("--target and --who go without --format: the files of a benchmark say who is its target")
    if args.stream and args.after:
        raise InputError("--stream reads one table of answers, with its arms: leave out AFTER")
    if not asking and args.seeds != 1:
        raise InputError("--seeds goes with --ask")
    if args.apart and args.who is None:
        raise InputError("--apart goes with --who: without it there are no aliases, and no name stands for several")
    if asking:
        return
    for spec in (args.before, args.after):
        if spec is not None and is_function(spec):
            raise InputError(f"{spec} is a function: say what to ask it, --ask questions.csv (query, prompt, entity)")
        if spec is not None and is_language_model(spec):
            raise InputError(f"{spec} is a language model: say what it should read, --texts texts.txt")
        if spec is not None and Path(spec).is_dir() and not args.stream:
            raise InputError(
                f"{spec} is a folder: of texts, write --ask questions.csv; of .parquet tables, --stream; of cases of "
                "CounterFact, --format counterfact"
            )
        if spec is not None and Path(spec).suffix.lower() in (".json", ".jsonl"):
            raise InputError(f"{spec}: of a benchmark's results write --format (counterfact, tofu or rwku)")


def _check_texts(args: options.Remember) -> None:
    others = {name: getattr(args, name) for name in ("truth", "again", "ask", "format", "merit")}
    given = [*(name for name, value in others.items() if value is not None), *(["stream"] if args.stream else [])]
    if args.seeds != 1:
        given.append("seeds")
    if given:
        raise InputError(f"--{given[0]} goes without --texts: language models are asked for the words of the texts")
    if args.apart and args.who is None:
        raise InputError("--apart goes with --who")


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
        if args.merit is not None:
            raise InputError(MERIT_TWICE.format(f"{args.merit:g}", path))
        return read_ledger(path)
    return Ledger.of_table(_table(args.before), merit=args.merit)


def _who(args: options.Remember, ledger: Ledger | StreamedLedger) -> Registry:
    if args.who is None:
        return Registry.of(ledger.entities, target=args.target)
    return _registry(args)


def _registry(args: options.Remember) -> Registry:
    table = _table(args.who or "", gaps=True)
    if "id" not in table:
        near = did_you_mean("id", [name.lower() for name in table])
        raise InputError(f"--who {args.who} has no column id; it has {shortened(list(table), count=20)}{near}")
    known: dict[str, Any] = {name: table[name] for name in _KNOWN if name in table}
    groups = {name: values.tolist() for name, values in table.items() if name not in ("id", *_KNOWN)}
    if "aliases" in known:
        known["aliases"] = [[] if each is None else _aliases(str(each)) for each in known["aliases"]]
    ambiguous = "apart" if args.apart else "refused"
    return Registry.of(table["id"].tolist(), groups=groups, ambiguous=ambiguous, **known)


def _aliases(names: str) -> list[str]:
    return [name for name in names.split("|") if name.strip()]


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


def _table(spec: str, *, gaps: bool = False) -> dict[str, NDArray[Any]]:
    source = open_source(spec)
    if source.shape is not None:
        raise InputError(f"{spec} is an array: give a table (.csv or .parquet), or what was said after as AFTER")
    return _values(source, column_names(source), gaps=gaps)


def _values(source: Source, columns: Any, *, gaps: bool = False) -> dict[str, NDArray[Any]]:
    """Columns as arrays, ids of a text file to the letter; with gaps, what is missing is None in all but `id`."""
    chosen = source
    if source.shape is None:
        told = [name for name in columns if name not in _IDS]
        chosen = source.select([], told, rest=True) if len(told) < len(columns) else source.select([], told)
    parts: dict[str, list[Any]] = {name: [] for name in columns}
    for chunk in chosen.chunks(_ROWS):
        for name, found in parts.items():
            found.append(_read_values(chunk, name, source.where, gaps and name != "id"))
    return {name: np.concatenate(found) for name, found in parts.items()}


def _read_values(chunk: Chunk, name: str, where: str, gaps: bool) -> NDArray[Any]:
    missing = chunk.gaps([], [name])
    if not missing.any():
        return _to_the_letter(np.asarray(chunk.labels(name)), name)
    if not gaps:
        rows = shortened((np.flatnonzero(missing) + chunk.first_row).tolist())
        raise InputError(
            f"column {name!r} of {where} has missing values (rows, counted from 0: {rows}): drop or fill them first"
        )
    found = np.full(len(missing), None, dtype=object)
    found[~missing] = chunk.keep(~missing).labels(name).tolist()
    return found


def _to_the_letter(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Ids as they are written, but that a whole number is one id whether it stands as 3 or as 3.0."""
    if name not in _IDS or values.dtype.kind != "U":
        return values
    return np.array([each if (found := _WHOLE.fullmatch(each)) is None else found[1] for each in values.tolist()])
