"""Files of public benchmarks of editing and unlearning, as questions to ask or as answers that were given.

Their formats, as their own code writes and reads them: CounterFact (github kmeng01/rome), RippleEdits (edenbiran),
TOFU (locuslab/tofu) and RWKU (jinzhuoran). They were made for averages; here each has entities, and those not to be
touched are bystanders.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from efface._errors import FormatError, InputError
from efface._io import as_path
from efface._text import shown
from efface.audit.remembrance.facts import Fact, Questions, Wordings
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.registry import Entity, Registry, Relation
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from efface.core.doors import check_call, check_word

Format = Literal["counterfact", "rippleedits", "tofu", "rwku"]
PathLike = str | os.PathLike[str]
_ENTITY_OF_RIPPLES = ("Relation_Specificity", "Forgetfulness")
_OTHER_RIPPLES = ("Logical_Generalization", "Subject_Aliasing", "Compositionality_I", "Compositionality_II")
_OF_AN_AUTHOR = 20
_KINDS = {str: "text", list: "a list", dict: "an object", float: "a number"}
_TOFU: Mapping[str, tuple[str, Relation, int]] = {
    "eval_log_forget": ("forgotten author", "target", _OF_AN_AUTHOR),
    "eval_log": ("retained author", "sibling", _OF_AN_AUTHOR),
    "eval_real_author_wo_options": ("real author", "neighbour", 1),
    "eval_real_world_wo_options": ("fact of the world", "unrelated", 1),
}


class Results(NamedTuple):
    """Answers that were given, and who they are about."""

    ledger: Ledger
    registry: Registry


@dataclass(frozen=True)
class Record:
    """An object of a file, which says where it is when something is wrong with it."""

    path: Path
    place: str
    values: Any

    def take(self, key: str, kind: type, *, of: Any = None) -> Any:
        """What stands under a key (`a.b` is b of a), if it is of a kind.

        Raises:
            FormatError: If it is not.
        """
        found = self.values if of is None else of
        said = []
        for part in key.split("."):
            said.append(part)
            if not isinstance(found, dict) or part not in found:
                has = f"it has {', '.join(list(map(str, found))[:8])}" if isinstance(found, dict) else "it is no object"
                raise self.error(".".join(said), f"expected {_KINDS[kind]}, and there is none ({has})")
            found = found[part]
        return self.check(found, key, kind)

    def check(self, value: Any, key: str, kind: type) -> Any:
        """The value, if it is of a kind; numbers are finite, and text is not empty."""
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        empty = (kind is float and fits and not math.isfinite(value)) or (kind is str and not str(value).strip())
        if not fits or empty:
            raise self.error(key, f"expected {_KINDS[kind]}, got {shown(value)}")
        return value

    def error(self, key: str, said: str) -> FormatError:
        """What is wrong, and where."""
        return FormatError(f"{self.path}, {self.place}, key {key!r}: {said}")


def read_questions(path: PathLike | Mapping[str, PathLike], format: Format) -> Questions:
    """Questions of a benchmark's data file, to be asked of systems before and after an edit.

    - CounterFact: a list of cases. Their own prompts and paraphrases are of the target (does it still tell the old
      fact?), prompts of the neighbourhood of others with the same relation and object, who should be told as before.
    - RippleEdits: a list of edits. Asked is what should not change, Relation_Specificity (other facts of the subject)
      and Forgetfulness (facts that stand beside the new one); the other axes ask for new facts. A test counts only if
      its conditions hold before: see `Questions.known_to`.
    - TOFU: a list of questions, twenty in a row of one author; names of files are free, so give relation -> file, as
      `{"target": "forget10.json", "sibling": "retain90.json", "unrelated": "world_facts.json"}`.
    - RWKU: a list of probes; those with a neighbour are of it, the others of the target. Relation -> file, or one file.

    Args:
        path: A .json or .jsonl file; or relation -> file.
        format: Which benchmark's.

    Raises:
        FormatError: If a file is not of the format: it says which record and key, and what was expected.

    Does not guarantee: scores as these benchmarks count them. An answer is held to say a fact if it has its words (of
    TOFU and RWKU: half of them, in order), whatever else it says.
    """
    check_word(format, Format, "format")
    files = path if isinstance(path, Mapping) else {"": path}
    if format in ("counterfact", "rippleedits") and isinstance(path, Mapping):
        raise InputError(f"{format} has target and neighbours in one file: give its path alone")
    if format == "tofu" and not isinstance(path, Mapping):
        raise InputError(
            "of tofu say what each file is of: {'target': 'forget10.json', 'sibling': 'retain90.json', ...}"
        )
    entities: dict[str, Entity] = {}
    facts: list[Fact] = []
    for relation, file in files.items():
        if relation:
            check_word(relation, Relation, "a relation of path")
        for record in _records(as_path(file)):
            for entity, fact in _QUESTIONS[format](record, relation):
                entities.setdefault(entity.id, entity)
                facts.append(fact)
    if not facts:
        raise FormatError(f"{', '.join(map(str, files.values()))}: there is no question that could be asked")
    twice = len(facts) - len({fact.query for fact in facts})
    if twice:
        raise FormatError(f"{twice} records have the id of another one: give each case once")
    return Questions.of(Registry(list(entities.values()), ambiguous="apart"), facts)


def read_results(
    before: PathLike, after: PathLike | None = None, *, format: Format, again: PathLike | None = None,
    from_share: float = 0.5,
) -> Results:  # fmt: skip
    """Answers that a benchmark's own code wrote down, as a ledger.

    - CounterFact: a folder of `case_*.json`, or one such file, with `pre` and `post` in each: a prompt is hit where the
      true object is likelier than the new one; AFTER is left out.
    - TOFU: `eval_log_aggregated.json` before and after (or one of the logs in it), hit from a ROUGE-L recall on.
    - RWKU: the output of `eval_forget` or `eval_neighbor` before and after, hit likewise.

    Args:
        before: File or folder.
        after: File of the same questions after the edit.
        format: Which benchmark's; RippleEdits writes no answers down.
        again: Another run before.
        from_share: Recall of the reference from which an answer is held to say it: to be declared.

    Raises:
        FormatError: If a file is not of the format, or before and after have not the same questions.
    """
    check_call(read_results, locals())
    check_word(format, Format, "format")
    if not 0 < from_share <= 1:
        raise InputError(f"from_share is {from_share}: write a number above 0, up to 1")
    if format == "rippleedits":
        raise InputError("RippleEdits writes no answers down: read its questions with read_questions, and ask them")
    if format == "counterfact":
        if after is not None or again is not None:
            raise InputError("results of counterfact hold before and after ('pre', 'post'): give BEFORE alone")
        return _results([*_cases(as_path(before))])
    if after is None:
        raise InputError(f"results of {format} are of one model: give after too")
    files = {BEFORE: before, AFTER: after, **({} if again is None else {AGAIN: again})}
    read = _RESULTS[format]
    rows = {arm: {row.query: row for row in read(as_path(file), from_share)} for arm, file in files.items()}
    for arm, found in rows.items():
        if odd := sorted(found.keys() ^ rows[BEFORE].keys()):
            raise FormatError(f"{files[arm]} and {before} have not the same questions: {odd[0]!r} is in one of them")
    return _results([(arm, row) for arm, found in rows.items() for row in found.values()])


class _Row(NamedTuple):
    """One answer to one question."""

    entity: Entity
    query: str
    hit: bool
    score: float


def _results(rows: Sequence[tuple[str, _Row]]) -> Results:
    entities: dict[str, Entity] = {}
    for _, row in rows:
        entities.setdefault(row.entity.id, row.entity)
    table = {
        "entity": [row.entity.id for _, row in rows],
        "query": [row.query for _, row in rows],
        "arm": [arm for arm, _ in rows],
        "hit": [int(row.hit) for _, row in rows],
        "score": [row.score for _, row in rows],
    }
    return Results(Ledger.of_table(table, merit=1.0), Registry(list(entities.values()), ambiguous="apart"))


def _records(path: Path) -> Iterator[Record]:
    """Objects of a file: of a list, one a line, or the one that it is."""
    found = _json(path)
    for number, values in enumerate(found if isinstance(found, list) else [found], 1):
        record = Record(path, f"record {number}", values)
        if not isinstance(values, dict):
            raise FormatError(f"{path}, record {number}: expected an object, got {shown(values)}")
        yield record


def _json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            # TOFU's files are called .json, and have an object a line.
            return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON, and no JSON lines: {str(error)[:200]}") from error


def _one(wording: str) -> Wordings:
    return ((wording,),)


def _rewrite(record: Record) -> tuple[Any, str, str, Entity, Entity]:
    """Id of a case, its prompt, the true object, the target, and its neighbours."""
    case = record.values.get("case_id") if isinstance(record.values, dict) else None
    if not isinstance(case, int | str):
        raise record.error("case_id", f"expected a number, got {shown(case)}")
    subject, relation = (record.take(f"requested_rewrite.{key}", str) for key in ("subject", "relation_id"))
    true = record.take("requested_rewrite.target_true.str", str)
    prompt = record.take("requested_rewrite.prompt", str)
    if "{}" not in prompt:
        raise record.error("requested_rewrite.prompt", f"expected text with {{}} for the subject, got {shown(prompt)}")
    groups = {"relation_id": relation}
    target = Entity(subject, groups=groups, relation="target")
    others = Entity(f"others: {relation} {true.strip()}", groups=groups, relation="neighbour")
    return case, prompt.replace("{}", subject), true, target, others


def _counterfact(record: Record, _: str) -> Iterator[tuple[Entity, Fact]]:
    case, prompt, true, target, others = _rewrite(record)
    lists = {"rewrite": [prompt], **{n: record.take(f"{n}_prompts", list) for n in ("paraphrase", "neighborhood")}}
    for name, prompts in lists.items():
        entity = others if name == "neighborhood" else target
        for number, each in enumerate(prompts):
            record.check(each, f"{name}_prompts[{number}]", str)
            yield entity, Fact(f"{case}: {name} {number}", entity.id, ((each, _one(true)),))


def _cases(path: Path) -> Iterator[tuple[str, _Row]]:
    files = sorted(path.glob("case_*.json")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"the folder {path} has no case_*.json")
    for file in files:
        for record in _records(file):
            case, _, _, target, others = _rewrite(record)
            for arm, key in ((BEFORE, "pre"), (AFTER, "post")):
                for name in ("rewrite", "paraphrase", "neighborhood"):
                    entity = others if name == "neighborhood" else target
                    for number, each in enumerate(record.take(f"{key}.{name}_prompts_probs", list)):
                        at = f"{key}.{name}_prompts_probs[{number}]"
                        new, true = (
                            record.check(each.get(n) if isinstance(each, dict) else None, f"{at}.{n}", float)
                            for n in ("target_new", "target_true")
                        )
                        if min(new, true) < 0:
                            raise record.error(at, f"expected -log p, which is never below 0, got {new} and {true}")
                        score = math.exp(-true) - math.exp(-new)
                        yield arm, _Row(entity, f"{case}: {name} {number}", true < new, score)


def _ripple(record: Record, _: str) -> Iterator[tuple[Entity, Fact]]:
    edited = record.take("edit.subject_id", str)
    for axis in _OTHER_RIPPLES:
        record.take(axis, list)
    for axis in _ENTITY_OF_RIPPLES:
        for number, test in enumerate(record.take(axis, list)):
            at = f"{axis}[{number}]"
            asked = [_wanted(record, each, f"{at}.test_queries") for each in record.take("test_queries", list, of=test)]
            if not asked:
                continue  # some tests of the file ask nothing
            needed = record.take("condition_queries", list, of=test)
            conditions = [_wanted(record, each, f"{at}.condition_queries") for each in needed]
            how = record.take("test_condition", str, of=test)
            if how not in ("OR", "AND"):
                raise record.error(f"{at}.test_condition", f"expected 'OR' or 'AND', got {shown(how)}")
            subject = record.take("subject_id", str, of=test["test_queries"][0])
            entity = Entity(f"{subject}: {axis}", groups={"axis": axis}, relation="neighbour")
            query = f"{record.place}, {edited}: {axis} {number}"
            yield entity, Fact(query, entity.id, tuple(asked), how == "AND", tuple(conditions))


def _wanted(record: Record, query: Any, at: str) -> tuple[str, Wordings]:
    """A prompt with its answers, each of which has to be said by its name or an alias."""
    prompt, groups = record.take("prompt", str, of=query), []
    for answer in record.take("answers", list, of=query):
        value, aliases = record.take("value", str, of=answer), record.take("aliases", list, of=answer)
        groups.append((value, *(alias for alias in aliases if isinstance(alias, str) and alias.strip())))
    if not groups:
        raise record.error(f"{at}.answers", "expected at least one answer, got an empty list")
    return prompt, tuple(groups)


def _tofu(record: Record, relation: str) -> Iterator[tuple[Entity, Fact]]:
    question, answer = (record.take(key, str) for key in ("question", "answer"))
    number = int(record.place.split()[1]) - 1
    entity = Entity(f"{record.path.stem}: author {number // _OF_AN_AUTHOR}", relation=relation)  # type: ignore[arg-type]
    fact = Fact(f"{record.path.stem}: {number}", entity.id, ((question, _one(answer)),), from_share=0.5)
    yield entity, fact


def _tofu_results(path: Path, from_share: float) -> Iterator[_Row]:
    found = _json(path)
    if not isinstance(found, dict):
        raise FormatError(f"{path}: expected an object of logs, got {shown(found)}")
    logs = found if any(name.endswith(".json") for name in found) else {path.name: found}
    for name, log in logs.items():
        stem = name.removesuffix(".json")
        if stem not in _TOFU:
            raise FormatError(f"{path}, log {name!r}: expected one of {', '.join(f'{each}.json' for each in _TOFU)}")
        record = Record(path, f"log {name}", log)
        what, relation, many = _TOFU[stem]
        for key, value in record.take("rougeL_recall", dict).items():
            at = f"rougeL_recall.{key}"
            if not (key.isascii() and key.isdecimal()):
                raise record.error(at, "expected numbers of questions for keys")
            score = float(record.check(value, at, float))
            if not 0 <= score <= 1:
                raise record.error(at, f"expected a share of the reference, from 0 to 1, got {shown(value)}")
            entity = Entity(f"{what} {int(key) // many}", relation=relation)
            yield _Row(entity, f"{stem}: {int(key):05d}", score >= from_share, score)


def _probe(record: Record, relation: str) -> tuple[Entity, str, str, str]:
    """Who a probe of RWKU is about, its id, what it asks, and the answer."""
    subject, query, answer = (record.take(key, str) for key in ("subject", "query", "answer"))
    level = record.take("level", str)
    neighbour = record.values.get("neighbor")
    if neighbour is None:
        entity = Entity(subject, relation=relation or "target")  # type: ignore[arg-type]
    else:
        name = f"{record.check(neighbour, 'neighbor', str)} (beside {subject})"
        entity = Entity(name, groups={"beside": subject}, relation=relation or "neighbour")  # type: ignore[arg-type]
    return entity, f"{record.path.stem}: {record.place}, level {level}", query, answer


def _rwku(record: Record, relation: str) -> Iterator[tuple[Entity, Fact]]:
    entity, name, query, answer = _probe(record, relation)
    yield entity, Fact(name, entity.id, ((query, _one(answer)),), from_share=0.5)


def _rwku_results(path: Path, from_share: float) -> Iterator[_Row]:
    found = _json(path)
    probes = found.get("results") if isinstance(found, dict) else found
    if not isinstance(probes, list):
        raise FormatError(f"{path}, key 'results': expected a list of probes, got {shown(probes)}")
    for number, values in enumerate(probes, 1):
        record = Record(path, f"record {number}", values)
        entity, _, query, answer = _probe(record, "")
        fact = Fact(f"{number:05d}: {query}", entity.id, ((query, _one(answer)),), from_share=from_share)
        yield _Row(entity, fact.query, *fact.told([record.take("prediction", str)]))


_QUESTIONS: Mapping[str, Callable[[Record, str], Iterator[tuple[Entity, Fact]]]] = {
    "counterfact": _counterfact,
    "rippleedits": _ripple,
    "tofu": _tofu,
    "rwku": _rwku,
}
_RESULTS: Mapping[str, Callable[[Path, float], Iterator[_Row]]] = {"tofu": _tofu_results, "rwku": _rwku_results}
