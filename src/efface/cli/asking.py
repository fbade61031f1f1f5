"""Answers for `efface remember` that come from functions, from folders of texts, or from files of benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._validate import check_positive_int, did_you_mean
from efface.audit.remembrance import (
    AliasMatcher,
    AnswerSystem,
    Ledger,
    Observation,
    Query,
    Registry,
    System,
    read_questions,
    read_results,
)
from efface.audit.remembrance.answering import takes_two
from efface.audit.remembrance.registry import name_of
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE, PLACEBO
from efface.cli import options
from efface.cli.functions import function_of, is_function
from efface.streams import shortened

_TAKES = "a prompt (and a seed) that returns the answer as text"
_COLUMNS = ("query", "prompt", "entity", "merit")
Table = Mapping[str, Any]


def is_answers(spec: str) -> bool:
    """Whether something gives answers in text: a function, or a folder."""
    return is_function(spec) or Path(spec).is_dir()


def published(args: options.Remember) -> tuple[Ledger, Registry]:
    """Results of a benchmark, or its questions asked of functions."""
    if args.format is None:
        raise InputError("--format is missing")
    if args.placebo and args.ask is None:
        raise InputError("--placebo goes with --ask: results of a benchmark have no placebos")
    if args.ask is None:
        found = read_results(args.before, args.after, format=args.format, again=args.again)
        return found.ledger, found.registry
    for spec in (args.before, args.after or "", args.again or args.before, *args.placebo):
        if not is_function(spec):
            raise InputError(
                f"{spec or 'AFTER'} is no function: with --format, --ask is asked of package.module:function"
            )
    functions = {spec: _function(spec) for spec in _specs(args).values()}
    given = _relations(args.ask) if args.format == "tofu" else args.ask
    questions = read_questions(given, args.format).known_to(functions[args.before])
    systems = {spec: questions.system(function) for spec, function in functions.items()}
    return _asked(args, questions.queries, questions.registry, systems, functions), questions.registry


def asked(args: options.Remember, questions: Table, registry: Registry | None) -> tuple[Ledger, Registry]:
    """Questions of a table, asked of functions or found answered in folders.

    Args:
        args: What the user wrote.
        questions: The table.
        registry: Who may be named; None takes those who have merit, by their ids.
    """
    queries = _queries(questions, args.ask or "")
    known = sorted({entity for query in queries for entity in query.merit})
    who = Registry.of(known, target=args.target) if registry is None else registry
    who.places(known)
    systems: dict[str, System] = {}
    functions: dict[str, Callable[..., Any]] = {}
    for spec in _specs(args).values():
        if is_function(spec):
            functions[spec] = _function(spec)
            systems[spec] = AnswerSystem(functions[spec], who)
        elif Path(spec).is_dir():
            systems[spec] = FolderSystem(Path(spec), queries, args.seeds, who)
        else:
            raise InputError(
                f"{spec} is no folder and no package.module:function: --ask takes answers in text, "
                "a file QUERY.txt for each (QUERY.SEED.txt of several)"
            )
    return _asked(args, queries, who, systems, functions), who


def _function(spec: str) -> Callable[..., Any]:
    """A function that can be asked, or an error that names it."""
    function = function_of(spec, _TAKES)
    takes_two(function, spec)
    return function


class FolderSystem:
    """Answers in a folder: a text `QUERY.txt` for each query, or `QUERY.SEED.txt` from 0 on.

    Raises:
        InputError: If an answer is missing, or answers nothing that was asked.
    """

    def __init__(self, folder: Path, queries: Sequence[Query], seeds: int, registry: Registry) -> None:
        self._matcher, self._texts = AliasMatcher(registry), {}
        there = {path.name: path for path in sorted(folder.glob("*.txt"))}
        for query in queries:
            for seed in range(seeds):
                names = (f"{query.id}.{seed}.txt", *([f"{query.id}.txt"] if seeds == 1 else []))
                found = next((name for name in names if name in there), None)
                if found is None:
                    near = did_you_mean(names[-1], there)
                    raise InputError(f"{folder} has no {names[-1]}, the answer to query {query.id!r}{near}")
                self._texts[query.id, seed] = there.pop(found)
        if there:
            odd, ids = next(iter(there)), [query.id for query in queries]
            near = did_you_mean(odd.removesuffix(".txt"), ids)
            more = "" if seeds > 1 else "; of several answers to a query write --seeds N"
            raise InputError(f"{folder} has {odd}, which answers none of the queries{near} ({len(there)} do not){more}")

    def observe(self, query: Query, seed: int) -> Observation:
        """Who is named in the text."""
        path = self._texts[query.id, seed]
        try:
            return self._matcher.read(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text in UTF-8: {error}") from error


def _specs(args: options.Remember) -> dict[str, str]:
    """Arm -> what gives its answers."""
    if args.after is None:
        raise InputError("AFTER is missing: --ask asks two, the one before and the one after")
    more = {AGAIN: args.again} if args.again else {}
    return {
        BEFORE: args.before,
        AFTER: args.after,
        **more,
        **{f"{PLACEBO} {number}": spec for number, spec in enumerate(args.placebo, 1)},
    }


def _asked(
    args: options.Remember,
    queries: Sequence[Query],
    registry: Registry,
    systems: Mapping[str, System],
    functions: Mapping[str, Callable[..., Any]],
) -> Ledger:
    """All arms; a function that takes seeds is asked again with others, if nothing else was given for it."""
    check_positive_int(args.seeds, "--seeds")
    seeds = range(args.seeds)
    arms = {arm: (systems[spec], 0) for arm, spec in _specs(args).items()}
    own = functions.get(args.before)
    if own is not None and takes_two(own, args.before) and (args.again is None or args.again == args.before):
        arms[AGAIN] = systems[args.before], args.seeds
    answers = {
        arm: {(query.id, seed): system.observe(query, seed + more) for query in queries for seed in seeds}
        for arm, (system, more) in arms.items()
    }
    return Ledger.of_answers(answers, queries, registry)


def _queries(table: Table, name: str) -> list[Query]:
    """A query for each id, with the merit of each entity; rows of one query have one prompt."""
    for column in _COLUMNS[:3]:
        if column not in table:
            near = did_you_mean(column, table)
            raise InputError(f"--ask {name} has no column {column}; it has {shortened(list(table), count=20)}{near}")
    merits = table.get("merit", [1.0] * len(table["query"]))
    prompts: dict[str, str] = {}
    found: dict[str, dict[str, float]] = {}
    rows = zip(*(table[column] for column in _COLUMNS[:3]), merits, strict=True)
    for number, (query, prompt, entity, merit) in enumerate(rows, 1):
        query, prompt, entity, at = name_of(query), str(prompt), name_of(entity), f"--ask {name}, row {number}"
        if prompts.setdefault(query, prompt) != prompt:
            raise InputError(
                f"--ask {name}, row {number}: query {query!r} has another prompt than before: give each its id"
            )
        if entity in found.setdefault(query, {}):
            raise InputError(f"{at}: query {query!r} names {entity!r} twice")
        try:
            found[query][entity] = float(merit)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"--ask {name}, row {number}: merit is {str(merit)!r}, expected a number above 0"
            ) from error
    return [Query(query, prompts[query], merit) for query, merit in found.items()]


def _relations(spec: str) -> dict[str, str]:
    """Relation -> file, of `target=forget10.json,sibling=retain90.json`."""
    pairs = [part.partition("=") for part in spec.split(",")]
    if not all(equals and name and file for name, equals, file in pairs):
        raise InputError(f"--ask {spec}: of tofu write relation=file, as target=forget10.json,sibling=retain90.json")
    return {name: file for name, _, file in pairs}
