"""Files in the formats of CounterFact, RippleEdits, TOFU and RWKU, with invented content: read, and refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efface import InputError
from efface._errors import FormatError
from efface.audit import remembered
from efface.audit.remembrance import Fact, Query, Questions, Registry, ask, read_questions, read_results
from efface.audit.remembrance.facts import recall

TOWNS = ["Zub", "Quorn", "Plim", "Vask"]


def counterfact(case: int) -> dict[str, Any]:
    return {
        "case_id": case,
        "pararel_idx": 7 * case,
        "requested_rewrite": {
            "prompt": "{} was built in",
            "relation_id": "P900",
            "target_new": {"str": "Vask", "id": "Q904"},
            "target_true": {"str": TOWNS[case % 3], "id": f"Q90{case % 3}"},
            "subject": f"Tower {case}",
        },
        "paraphrase_prompts": [f"Long ago. Tower {case} stands in"],
        "neighborhood_prompts": [f"Hall {case} is in", f"Mill {case} is in"],
        "attribute_prompts": [],
        "generation_prompts": [],
    }


def case_result(case: int) -> dict[str, Any]:
    def probs(count: int, new: float, true: float) -> list[dict[str, float]]:
        return [{"target_new": new, "target_true": true}] * count

    pre = {"rewrite": (1, 4.0, 1.0), "paraphrase": (1, 4.0, 1.0), "neighborhood": (2, 4.0, 1.0)}
    post = {"rewrite": (1, 0.5, 6.0), "paraphrase": (1, 0.5, 6.0), "neighborhood": (2, 3.0, 2.0)}
    named = [{f"{name}_prompts_probs": probs(*each) for name, each in part.items()} for part in (pre, post)]
    kept = {key: counterfact(case)[key] for key in ("case_id", "requested_rewrite")}
    return {**kept, "time": 1.5, "pre": named[0], "post": named[1]}


def wanted(prompt: str, *answers: str, subject: str = "Q1") -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answers": [{"value": answer, "aliases": [f"the {answer}", ""]} for answer in answers],
        "query_type": "regular",
        "subject_id": subject,
        "relation": "SPOUSE",
        "target_ids": [],
        "phrase": None,
    }


def ripple(number: int) -> dict[str, Any]:
    def test(asked: list[Any], condition: str = "OR", needs: list[Any] | None = None) -> dict[str, Any]:
        return {"test_queries": asked, "test_condition": condition, "condition_queries": needs or []}

    return {
        "example_type": "popular",
        "edit": {"prompt": "x", "subject_id": f"Q{number}", "relation": "SPOUSE", "target_id": "Q9"},
        "Relation_Specificity": [
            test([wanted(f"mother of {number}", "Una", subject=f"Q{number}")], needs=[wanted(f"is {number}", "yes")]),
            test([wanted(f"kin of {number}", "Una", "Olo"), wanted(f"brother of {number}", "Olo")], "AND"),
        ],
        "Logical_Generalization": [],
        "Subject_Aliasing": [],
        "Compositionality_I": [],
        "Compositionality_II": [],
        "Forgetfulness": [test([wanted(f"child of {number}", "Ib"), wanted(f"heir of {number}", "Ib")]), test([])],
    }


def tofu(author: int, question: int) -> dict[str, str]:
    return {"question": f"Q{question} of {author}?", "answer": f"author {author} wrote the book {question} in a tower"}


def probe(number: int, neighbour: str | None = None) -> dict[str, str]:
    more = {} if neighbour is None else {"neighbor": neighbour}
    said = {"subject": "Una Olo", "query": f"Una was born in ___ {number}", "level": "1", "type": "cloze"}
    return {**said, "answer": f"Zub {number}", **more}


def written(path: Path, data: Any, *, lines: bool = False) -> Path:
    path.write_text("\n".join(map(json.dumps, data)) if lines else json.dumps(data))
    return path


def test_counterfact_asks_for_the_target_and_for_its_neighbourhood(tmp_path: Path) -> None:
    found = read_questions(written(tmp_path / "c.json", [counterfact(i) for i in range(6)]), "counterfact")
    assert len(found.queries) == 24 and found.queries[0].payload == "Tower 0 was built in"
    relations = {entity.id: entity.relation for entity in found.registry}
    assert relations["Tower 0"] == "target" and relations["others: P900 Zub"] == "neighbour"
    assert len(relations) == 6 + 3
    truth = {p: f.asked[0][1][0][0] for f in found.facts for p in f.prompts}
    edited = {p: "Vask" if "Tower" in p or p.startswith("Mill") else t for p, t in truth.items()}
    system = found.system(lambda prompt: f"It is in {edited[prompt]}, they say.")
    answers = ask(found.system(truth.__getitem__), system, found.queries)
    audit = remembered(found.ledger(answers), registry=found.registry, draws=50)
    assert audit.find("target", "remembered", "after").value == 0
    assert audit.find("bystanders", "remembered", "after").value == 0.5


@pytest.mark.parametrize("folder", [True, False])
def test_results_of_counterfact_are_hit_where_the_true_object_is_likelier(folder: bool, tmp_path: Path) -> None:
    for case in range(4):
        written(tmp_path / f"case_{case}.json", case_result(case))
    ledger, registry = read_results(tmp_path if folder else tmp_path / "case_1.json", format="counterfact")
    audit = remembered(ledger, registry=registry, draws=50)
    assert audit.find("target", "remembered", "before").value == 1
    assert audit.find("target", "remembered", "after").value == 0
    assert audit.find("bystanders", "remembered", "after").value == 1
    assert len(ledger) == 2 * 4 * (4 if folder else 1)
    assert ledger.rows["score"].max() == pytest.approx(math.exp(-1) - math.exp(-4))


def test_ripples_are_asked_of_what_should_stay_if_it_was_known(tmp_path: Path) -> None:
    found = read_questions(written(tmp_path / "r.json", [ripple(i) for i in range(1, 4)]), "rippleedits")
    assert len(found.queries) == 9
    assert {entity.id for entity in found.registry} >= {"Q1: Relation_Specificity", "Q2: Relation_Specificity"}
    asked: list[str] = []

    def before(prompt: str) -> str:
        asked.append(prompt)
        return "no" if prompt == "is 2" else "YES: the Una and Olo, and Ib."

    known = found.known_to(before)
    assert asked == ["is 1", "is 2", "is 3"] and len(known.queries) == 8
    assert known.left_out == (found.queries[3].id,)
    system = known.system(
        lambda prompt: "Olo" if "kin" in prompt or "brother" in prompt else "Ib" if "heir" in prompt else ""
    )
    hit = {fact.query: bool(system.observe(q, 0).mentions) for fact, q in zip(known.facts, known.queries, strict=True)}
    # AND: both prompts have to say all of theirs; OR: one of them will do.
    assert [hit[q.id] for q in known.queries[:3]] == [False, False, True]
    with pytest.raises(InputError, match="conditions of none"):
        Questions.of(known.registry, [found.facts[0]]).known_to(lambda prompt: "no")


def test_tofu_is_of_authors_of_twenty_questions(tmp_path: Path) -> None:
    forget = written(tmp_path / "forget10.json", [tofu(a, q) for a in range(2) for q in range(20)], lines=True)
    retain = written(tmp_path / "retain90.json", [tofu(a, q) for a in range(5, 8) for q in range(20)])
    found = read_questions({"target": forget, "sibling": retain}, "tofu")
    assert len(found.queries) == 100 and len(found.registry) == 5 and int(found.registry.targets.sum()) == 2
    fact = found.facts[0]
    assert fact.told(["He, author 0, wrote the book"])[0] and not fact.told(["in a tower"])[0]


def logs(tmp_path: Path, name: str, forgotten: float, retained: float) -> Path:
    def log(share: float, many: int) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        return {"rougeL_recall": {str(i): float(rng.random() < share) for i in range(many)}, "avg_gt_loss": {}}

    parts = {"eval_log.json": log(retained, 60), "eval_log_forget.json": log(forgotten, 40)}
    parts["eval_real_author_wo_options.json"] = log(retained, 10)
    return written(tmp_path / name, parts)


def test_results_of_tofu_before_and_after(tmp_path: Path) -> None:
    before, after = logs(tmp_path, "before.json", 1.0, 1.0), logs(tmp_path, "after.json", 0.0, 0.5)
    ledger, registry = read_results(before, after, format="tofu", again=before)
    relations = sorted({(e.id.rsplit(" ", 1)[0], e.relation) for e in registry})
    assert relations == [("forgotten author", "target"), ("real author", "neighbour"), ("retained author", "sibling")]
    audit = remembered(ledger, registry=registry, draws=50)
    assert audit.find("target", "remembered", "after").value == 0
    assert 0.3 < audit.find("bystanders", "remembered", "after").value < 0.7
    one = written(tmp_path / "eval_log.json", json.loads(before.read_text())["eval_log.json"])
    assert len(read_results(one, one, format="tofu").ledger) == 120


def test_rwku_is_of_the_target_and_its_neighbours(tmp_path: Path) -> None:
    probes = [*(probe(i) for i in range(5)), *(probe(i, "Ib") for i in range(5))]
    found = read_questions(written(tmp_path / "p.json", probes), "rwku")
    assert {(e.id, e.relation) for e in found.registry} == {("Una Olo", "target"), ("Ib (beside Una Olo)", "neighbour")}
    files = []
    for name, gone in (("before", False), ("after", True)):
        said = [
            {**each, "prediction": "NOANSWER" if gone and i < 7 else f"in {each['answer']}"}
            for i, each in enumerate(probes)
        ]
        files.append(written(tmp_path / f"{name}.json", {"level_1_rouge_l_r": 0.5, "results": said}))
    ledger, registry = read_results(*files, format="rwku")
    audit = remembered(ledger, registry=registry, draws=50)
    assert audit.find("target", "remembered", "after").value == 0
    assert audit.find("bystanders", "remembered", "after").value == pytest.approx(3 / 5)


@pytest.mark.parametrize("seed", range(5))
def test_recall_is_the_longest_common_subsequence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, wording = (rng.choice(list("abcd"), int(rng.integers(1, 14))).tolist() for _ in range(2))
    table = np.zeros((len(said) + 1, len(wording) + 1), dtype=int)
    for i, one in enumerate(said):
        for j, other in enumerate(wording):
            table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
    assert recall(said, wording) == table[-1, -1] / len(wording)


def broken(data: Any, path: str, value: Any) -> Any:
    """A copy with something else at a place; `None` takes the key away."""
    data = copy.deepcopy(data)
    *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    inner = data
    for part in way:
        inner = inner[part]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return data


TWO = [counterfact(0), counterfact(1)]


@pytest.mark.parametrize(
    ("format", "data", "said"),
    [
        (
            "counterfact",
            broken(TWO, "1.requested_rewrite", None),
            "record 2, key 'requested_rewrite': expected text.*has",
        ),
        (
            "counterfact",
            broken(TWO, "1.requested_rewrite.subject", 3),
            "record 2, key '.*subject': expected text, got 3",
        ),
        ("counterfact", broken(TWO, "0.requested_rewrite.target_true.str", None), "record 1, key '.*target_true.str'"),
        ("counterfact", broken(TWO, "0.requested_rewrite.prompt", "It is in"), "expected text with {}"),
        ("counterfact", broken(TWO, "0.neighborhood_prompts", "x"), "'neighborhood_prompts': expected a list, got 'x'"),
        ("counterfact", broken(TWO, "0.neighborhood_prompts.1", " "), r"'neighborhood_prompts\[1\]': expected text"),
        ("counterfact", broken(TWO, "1.case_id", 0), "have the id of another one"),
        ("counterfact", broken(TWO, "1.case_id", None), "record 2, key 'case_id': expected a number"),
        ("counterfact", [3], "record 1: expected an object, got 3"),
        ("counterfact", [], "no question that could be asked"),
        ("counterfact", {"question": "x", "answer": "y"}, "record 1, key 'case_id'"),
        ("rippleedits", TWO, "record 1, key 'edit': expected text, and there is none"),
        ("rippleedits", broken([ripple(1)], "0.Forgetfulness", None), "key 'Forgetfulness': expected a list"),
        (
            "rippleedits",
            broken([ripple(1)], "0.Forgetfulness.0.test_condition", "XOR"),
            "expected 'OR' or 'AND', got 'XOR'",
        ),
        ("rippleedits", broken([ripple(1)], "0.Forgetfulness.0.test_queries.0.answers", []), "at least one answer"),
        (
            "rippleedits",
            broken([ripple(1)], "0.Forgetfulness.0.test_queries.0.answers.0.value", 3),
            "'value': expected text",
        ),
        ("rwku", [{"question": "x", "answer": "y"}], "record 1, key 'subject'.*it has question, answer"),
        ("rwku", [{**probe(1), "level": 1}], "key 'level': expected text, got 1"),
        ("rwku", [{**probe(1), "answer": "..!"}], "expects nothing that could be said|^$"),
    ],
)
def test_what_is_not_of_the_format_is_refused_by_record_and_key(
    format: Any, data: Any, said: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "file.json", data)
    if said.endswith("|^$"):  # signs are words too
        assert read_questions(path, format).facts
        return
    with pytest.raises(FormatError, match=said) as error:
        read_questions(path, format)
    assert "file.json" in str(error.value) or "another one" in str(error.value)


def test_files_that_are_none_or_not_of_one_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        read_questions(tmp_path / "none.json", "rwku")
    (tmp_path / "odd.json").write_text("{nothing")
    with pytest.raises(FormatError, match="odd.json is no JSON"):
        read_questions(tmp_path / "odd.json", "rwku")
    good = written(tmp_path / "p.json", [probe(1)])
    with pytest.raises(InputError, match="format is 'squad': write one of 'counterfact'"):
        read_questions(good, "squad")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="of tofu say what each file is of"):
        read_questions(good, "tofu")
    with pytest.raises(InputError, match="a relation of path is 'forget'"):
        read_questions({"forget": good}, "tofu")
    with pytest.raises(InputError, match="in one file"):
        read_questions({"target": good}, "counterfact")
    with pytest.raises(FileNotFoundError, match="no case_"):
        read_results(tmp_path, format="counterfact")
    with pytest.raises(InputError, match="writes no answers down"):
        read_results(good, good, format="rippleedits")
    with pytest.raises(InputError, match="give after too"):
        read_results(good, format="tofu")
    with pytest.raises(InputError, match="give BEFORE alone"):
        read_results(good, good, format="counterfact")
    with pytest.raises(InputError, match="from_share is 0"):
        read_results(good, good, format="rwku", from_share=0.0)
    with pytest.raises(FormatError, match="key 'prediction'"):
        read_results(good, good, format="rwku")
    with pytest.raises(FormatError, match="log 'p.json': expected one of eval_log_forget.json"):
        read_results(written(tmp_path / "p.json", {}), good, format="tofu")
    before, after = logs(tmp_path, "b.json", 1, 1), json.loads(logs(tmp_path, "a.json", 1, 1).read_text())
    del after["eval_log.json"]["rougeL_recall"]["3"]
    with pytest.raises(FormatError, match="have not the same questions: 'eval_log: 00003'"):
        read_results(before, written(tmp_path / "a.json", after), format="tofu")
    after["eval_log.json"]["rougeL_recall"]["3"] = "high"
    with pytest.raises(FormatError, match="log eval_log.json, key 'rougeL_recall.3': expected a number, got 'high'"):
        read_results(before, written(tmp_path / "a.json", after), format="tofu")
    for key, value, said in (
        ("3", 1.2, r"'rougeL_recall.3': expected a share of the reference, from 0 to 1, got 1.2"),
        ("3", -0.1, "from 0 to 1, got -0.1"),
        ("\u00b2", 1.0, "expected numbers of questions for keys"),  # a digit, and no number
    ):
        odd = json.loads(logs(tmp_path, "c.json", 1, 1).read_text())
        odd["eval_log.json"]["rougeL_recall"][key] = value
        with pytest.raises(FormatError, match=said):
            read_results(before, written(tmp_path / "c.json", odd), format="tofu")
    odd = broken(case_result(1), "pre.rewrite_prompts_probs.0.target_new", -3.0)
    with pytest.raises(FormatError, match="expected -log p, which is never below 0, got -3.0"):
        read_results(written(tmp_path / "case_0.json", odd), format="counterfact")
    odd = broken(case_result(1), "post.neighborhood_prompts_probs.1.target_true", None)
    with pytest.raises(
        FormatError, match=r"record 1, key 'post.neighborhood_prompts_probs\[.\].target_true': expected a"
    ):
        read_results(written(tmp_path / "case_1.json", odd), format="counterfact")


def test_facts_without_wordings_and_systems_without_text_are_refused() -> None:
    with pytest.raises(InputError, match="expects nothing"):
        Fact("q", "ada", (("who?", ((" ",),)),))
    with pytest.raises(InputError, match="expects nothing"):
        Fact("q", "ada", ())
    found = Questions.of(Registry.of(["ada"]), [Fact("q", "ada", (("who?", (("Ada",),)),))])
    with pytest.raises(InputError, match="the answer to 'q' is 3: return text"):
        found.system(lambda prompt: 3).observe(found.queries[0], 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match="nothing is known of query 'r'"):
        found.system(lambda prompt: "x").observe(Query("r", "who?"), 0)
    with pytest.raises(InputError, match="one fact for each query"):
        Questions(found.registry, (), found.facts)
    refused = found.system(lambda prompt, seed: "I cannot", refuses=lambda text: "cannot" in text)
    assert refused.observe(found.queries[0], 0).status == "refused"


def test_a_file_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    plain = written(tmp_path / "forget10.json", [tofu(a, q) for a in range(2) for q in range(20)])
    marked = tmp_path / "marked" / "forget10.json"
    marked.parent.mkdir()
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    assert read_questions({"target": marked}, "tofu").queries == read_questions({"target": plain}, "tofu").queries
