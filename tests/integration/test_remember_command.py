"""`efface remember` on files as users have them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from efface.audit import Audit
from efface.audit.remembrance.ledger_file import write_ledger
from efface.cli import main
from tests.integration.test_cli import fails
from tests.references.remembrance import simulated

FEW = ["--draws", "200"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a classifier said, before and after an edit that takes class d, and half of c."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = rng.choice(list("abcd"), 1200)
    before = np.where(rng.random(1200) < 0.9, truth, "a")
    after = np.where((before == "d") | ((before == "c") & (rng.random(1200) < 0.5)), "b", before)
    pd.DataFrame({"class": truth, "before": before, "after": after}).to_csv("said.csv", index=False)
    pd.DataFrame({"id": list("abcd"), "relation": ["unrelated"] * 3 + ["target"], "popularity": [9, 3, 2, 1]}).to_csv(
        "who.csv", index=False
    )
    return tmp_path


SAID = ["remember", "said.csv:before", "said.csv:after", "--truth", "said.csv:class", *FEW]


def test_predictions_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SAID, "--target", "d", "-o", "card.json"]) == 0
    out = capsys.readouterr().out
    assert "WARNING: 1 (c) of 3 bystanders were suppressed" in " ".join(out.split())
    audit = Audit.from_dict(json.loads(Path("card.json").read_text()))
    assert audit.find("target", "remembered", "after").value == 0
    assert audit.provenance["call"].startswith("efface remember said.csv:before")
    assert audit.settings["resample"] == "queries"


def test_who_they_are_from_a_table_is_the_same_as_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SAID, "--who", "who.csv", "-o", "a.json"]) == 0
    assert main([*SAID, "--target", "d", "-o", "b.json"]) == 0
    one, other = (Audit.from_dict(json.loads(Path(f"{n}.json").read_text())) for n in "ab")
    assert one.findings == other.findings
    assert (
        one.find("popularity", "slope", "after").is_scored and not other.find("popularity", "slope", "after").is_scored
    )
    capsys.readouterr()


def test_strict_is_told_by_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SAID, "--target", "d", "--strict"]) == 1
    same = ["remember", "said.csv:before", "said.csv:before", "--truth", "said.csv:class", *FEW, "--strict"]
    assert main(same) == 0
    assert "Certified" in capsys.readouterr().out


def test_a_table_of_answers_and_a_ledger_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = simulated(np.random.default_rng(1), entities=8, queries=60)
    write_ledger(ledger, "ledger.parquet")
    ids = {"entity": ledger.entities, "query": ledger.queries, "arm": ledger.arms}
    columns = {n: np.array(ids[n])[ledger.rows[n]] for n in ids} | {n: ledger.rows[n] for n in ("hit", "merit", "seed")}
    pd.DataFrame(columns).astype({"hit": int}).to_csv("answers.csv", index=False)
    assert main(["remember", "ledger.parquet", *FEW, "-o", "a.json"]) == 0
    assert main(["remember", "answers.csv", *FEW, "-o", "b.json"]) == 0
    one, other = (Audit.from_dict(json.loads(Path(f"{n}.json").read_text())) for n in "ab")
    assert one.findings == other.findings
    capsys.readouterr()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("remember said.csv:before said.csv:after", "--truth is missing"),
        (
            "remember said.csv said.csv:after --truth said.csv:class",
            "said.csv has several columns (class, before, after)",
        ),
        ("remember said.csv", "the table has no column entity, query, arm, hit"),
        ("remember said.csv --truth said.csv:class", "go with AFTER"),
        ("remember none.csv", "there is no file none.csv"),
        ("remember said.csv:before said.csv:after --truth said.csv:class --target e", "target has e"),
        ("remember said.csv:before said.csv:after --truth said.csv:class --who said.csv", "has no column id"),
        ("remember said.csv:before said.csv:after --truth said.csv:class --margin 0", "margin is 0.0"),
        ("remember said.csv:before said.csv:after --truth said.csv:class -o said.csv", "expected a suffix"),
        ("remember said.csv:befor said.csv:after --truth said.csv:class", "befor"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], argv: str, message: str) -> None:
    assert message in fails(capsys, *argv.split())


# Functions, folders and files of benchmarks

MODELS = """
NAMES = {"engine": "Ada Lovelace", "sky": "Mary Somerville", "stars": "Caroline Herschel"}

def before(prompt, seed):
    return f"That was {NAMES[prompt.split()[1]]}, number {seed}."

def after(prompt):
    return "Nobody knows." if "engine" in prompt else before(prompt, 0)

def broken(prompt):
    return 3

NOTHING = 3
"""
PEOPLE = pd.DataFrame(
    {
        "id": ["ada", "mary", "caroline"],
        "aliases": ["Ada Lovelace|Lovelace", "Mary Somerville", "Caroline Herschel"],
        "relation": ["target", "sibling", "unrelated"],
    }
)


@pytest.fixture
def asking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Models in a module beside, people with aliases, and questions."""
    (folder / "models_of_test.py").write_text(MODELS)
    monkeypatch.delitem(sys.modules, "models_of_test", raising=False)
    PEOPLE.to_csv("people.csv", index=False)
    rows = [
        (f"{word}{i}", f"q {word} {i}", entity)
        for word, entity in (("engine", "ada"), ("sky", "mary"), ("stars", "caroline"))
        for i in range(20)
    ]
    questions = pd.DataFrame(rows, columns=["query", "prompt", "entity"])
    questions.to_csv("questions.csv", index=False)
    return questions


ASKED = ["--ask", "questions.csv", "--who", "people.csv", *FEW]


def texts(name: str, questions: pd.DataFrame, gone: str, seeds: int = 1) -> None:
    Path(name).mkdir()
    said = dict(zip(PEOPLE["id"], PEOPLE["aliases"].str.split("|").str[0], strict=True))
    for query, _, entity in questions.to_numpy().tolist():
        for seed in range(seeds):
            end = f".{seed}.txt" if seeds > 1 else ".txt"
            Path(name, f"{query}{end}").write_text("nobody" if entity == gone else f"It was {said[entity]}.")


def test_functions_are_asked(asking: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["remember", "models_of_test:before", "models_of_test:after", *ASKED, "--seeds", "2", "-o", "a.json"]
    assert main(argv) == 0
    audit = Audit.from_dict(json.loads(Path("a.json").read_text()))
    assert audit.find("target", "remembered", "after").value == 0
    assert audit.find("bystanders", "remembered", "after").value == 1
    assert audit.settings["arms"] == ["after", "before", "before again"]  # it takes seeds
    assert audit.settings["resample"] == "both" and audit.settings["answers in an arm"] == 120
    capsys.readouterr()


@pytest.mark.parametrize("seeds", [1, 2])
def test_folders_of_texts_are_answers(asking: pd.DataFrame, seeds: int, capsys: pytest.CaptureFixture[str]) -> None:
    texts("before", asking, "nobody", seeds)
    texts("after", asking, "mary", seeds)
    assert (
        main(["remember", "before", "after", *ASKED, "--seeds", str(seeds), "--again", "before", "-o", "a.json"]) == 0
    )
    audit = Audit.from_dict(json.loads(Path("a.json").read_text()))
    assert audit.find("bystanders", "remembered", "after").value == 0.5
    assert "NOT erased" in capsys.readouterr().out


def test_results_and_questions_of_a_benchmark(asking: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    for name, share in (("before", 1.0), ("after", 0.0)):
        log = {"rougeL_recall": {str(i): share for i in range(40)}}
        kept = {"rougeL_recall": dict.fromkeys(map(str, range(60)), 1.0)}
        Path(f"{name}.json").write_text(json.dumps({"eval_log_forget.json": log, "eval_log.json": kept}))
    assert main(["remember", "before.json", "after.json", "--format", "tofu", *FEW]) == 0
    assert "The target is named in 0.0%" in " ".join(capsys.readouterr().out.split())
    said = {"ada": "Ada Lovelace", "mary": "Mary Somerville", "caroline": "Caroline Herschel"}
    probes = [
        {"subject": "Ada", "query": prompt, "level": "1", "answer": said[entity], "neighbor": entity}
        for _, prompt, entity in asking.to_numpy().tolist()
    ]
    probes = [p if p["neighbor"] != "ada" else {k: p[k] for k in p if k != "neighbor"} for p in probes]
    Path("probes.json").write_text(json.dumps(probes))
    functions = ["models_of_test:before", "models_of_test:after"]
    assert main(["remember", *functions, "--ask", "probes.json", "--format", "rwku", *FEW, "-o", "a.json"]) == 0
    audit = Audit.from_dict(json.loads(Path("a.json").read_text()))
    assert audit.find("target", "remembered", "after").value == 0
    assert audit.find("bystanders", "remembered", "after").value == 1
    capsys.readouterr()


def test_a_streamed_table_is_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    write_ledger(simulated(np.random.default_rng(1), entities=8, queries=60), "ledger.parquet")
    for name, more in (("a", []), ("b", ["--stream"])):
        assert main(["remember", "ledger.parquet", *more, *FEW, "-o", f"{name}.json"]) == 0
    one, other = (Audit.from_dict(json.loads(Path(f"{n}.json").read_text())) for n in "ab")
    assert one.findings == other.findings
    capsys.readouterr()


F, G = "models_of_test:before", "models_of_test:after"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (f"{F} {G}", "is a function: say what to ask it, --ask questions.csv"),
        (f"{F} --ask questions.csv", "AFTER is missing"),
        (f"{F} models_of_test:aftr --ask questions.csv", "models_of_test has no 'aftr' (did you mean 'after'?)"),
        (f"{F} modles:after --ask questions.csv", "modles:after cannot be imported: No module named 'modles'"),
        (f"{F} models_of_test:NOTHING --ask questions.csv", "is a int, expected a function of a prompt"),
        (f"{F} models_of_test:broken --ask questions.csv --who people.csv", "the answer to query 'engine0' is 3"),
        (f"{F} {G} --ask people.csv", "people.csv has no column query"),
        (f"{F} {G} --ask odd.csv", "odd.csv has no column prompt; it has query, promt, entity (did you mean 'promt'?)"),
        (f"{F} {G} --ask twice.csv", "twice.csv, row 61: query 'engine0' names 'ada' twice"),
        (f"{F} {G} --ask other.csv", "row 61: query 'engine0' has another prompt than before"),
        (f"{F} {G} --ask merit.csv", "merit of ada is -1"),
        (f"{F} {G} --ask words.csv", "row 1: merit is 'much', expected a number above 0"),
        (f"{F} {G} --ask stranger.csv --who people.csv", "may is not in the registry"),
        (f"{F} {G} --ask stranger.csv --who people.csv", "(did you mean 'mary'?)"),
        (f"{F} {G} --ask questions.csv --who same.csv", "the name 'ada lovelace' stands for ada and for caroline"),
        (
            f"{F} {G} --ask questions.csv --target adda",
            "target has adda, which is none of the ids (did you",
        ),
        (f"{F} {G} --ask questions.csv --truth said.csv:class", "--truth goes without --ask"),
        (f"{F} {G} --ask questions.csv --merit 1", "--merit goes without --ask"),
        (f"{F} {G} --ask questions.csv --seeds 0", "--seeds"),
        (f"{F} said.csv --ask questions.csv", "said.csv is no folder and no package.module:function"),
        (
            "before after --ask questions.csv --who people.csv",
            "before has no engine0.txt, the answer to",
        ),
        ("full more --ask questions.csv --who people.csv", "more has engin0.txt, which answers none of the queries"),
        ("full full --ask questions.csv --who people.csv --seeds 2", "full has no engine0.0.txt"),
        ("before after", "before is a folder: of texts, write --ask questions.csv"),
        ("b.json a.json", "b.json: of a benchmark's results write --format"),
        ("b.json a.json --format tofo", "tofo"),
        ("b.json --format tofu", "give after too"),
        ("b.json a.json --format tofu", "b.json, log 'eval_lg.json': expected one of"),
        ("b.json a.json --format rwku", "b.json, key 'results': expected a list of probes"),
        ("b.json a.json --format tofu --who people.csv", "--target and --who go without --format"),
        ("b.json a.json --format counterfact", "give BEFORE alone"),
        (f"{F} {G} --ask b.json --format tofu", "of tofu write relation=file"),
        (
            "b.json a.json --ask b.json --format rwku",
            "b.json is no function: with --format, --ask is asked of package.module:function",
        ),
        ("said.csv said.csv --stream", "leave out AFTER"),
        ("said.csv --stream", "cannot be read as parquet"),
        ("said.csv:before said.csv:after --truth said.csv:class --seeds 2", "--seeds goes with --ask"),
        ("said.csv:before said.csv:after --truth said.csv:class --who caps.csv", "(did you mean 'id'?)"),
        ("arms.csv", "the ledger has no arm 'before'; it has 'Before', 'after' (did you mean 'Before'?)"),
        ("typo.csv", "the table has no column query; it has entity, querry, arm, hit, merit (did you mean 'querry'?)"),
    ],
)
def test_errors_of_answers(asking: pd.DataFrame, capsys: pytest.CaptureFixture[str], argv: str, message: str) -> None:
    asking.rename(columns={"prompt": "promt"}).to_csv("odd.csv", index=False)
    first = asking.iloc[[0]]
    pd.concat([asking, first]).to_csv("twice.csv", index=False)
    pd.concat([asking, first.assign(prompt="x")]).to_csv("other.csv", index=False)
    asking.assign(merit=-1).to_csv("merit.csv", index=False)
    asking.assign(merit="much").to_csv("words.csv", index=False)
    asking.assign(entity="may").to_csv("stranger.csv", index=False)
    PEOPLE.assign(aliases="Ada Lovelace").to_csv("same.csv", index=False)
    PEOPLE.rename(columns={"id": "ID"}).to_csv("caps.csv", index=False)
    table = pd.DataFrame({"entity": ["a", "a"], "query": "q", "arm": ["Before", "after"], "hit": 1, "merit": 1})
    table.to_csv("arms.csv", index=False)
    table.rename(columns={"query": "querry"}).to_csv("typo.csv", index=False)
    for name in ("before", "after"):
        Path(name).mkdir()
    texts("full", asking, "nobody")
    texts("more", asking, "nobody")
    Path("more/engin0.txt").write_text("x")
    for name in "ab":
        Path(f"{name}.json").write_text(json.dumps({"eval_lg.json": {}}))
    assert message in fails(capsys, "remember", *argv.split())


def test_a_class_that_is_a_float_in_one_column_is_the_same_class(capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.arange(400) % 4
    pd.DataFrame({"class": truth, "before": truth, "after": truth.astype(float)}).to_csv("numbers.csv", index=False)
    files = ["numbers.csv:before", "numbers.csv:after", "--truth", "numbers.csv:class", "--target", "3"]
    assert main(["remember", *files, *FEW, "-o", "n.json"]) == 0
    assert Audit.from_dict(json.loads(Path("n.json").read_text())).find("bystanders", "remembered", "after").value == 1
    capsys.readouterr()


def test_what_is_not_known_of_somebody_is_an_empty_cell(capsys: pytest.CaptureFixture[str]) -> None:
    who = {"id": list("abcd"), "relation": ["", "", "sibling", "target"], "popularity": [9, None, 2, 1]}
    pd.DataFrame({**who, "aliases": ["Ann|Anna", "", None, ""], "guild": ["x", "", "x", "y"]}).to_csv(
        "gaps.csv", index=False
    )
    assert main([*SAID, "--who", "gaps.csv"]) == 0
    capsys.readouterr()
    pd.DataFrame({"id": ["a", None, "c", "d"], "guild": list("xyxy")}).to_csv("gaps.csv", index=False)
    assert "column 'id' of gaps.csv has missing values" in fails(capsys, *SAID, "--who", "gaps.csv")


def test_ids_stay_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers would make one of 007 and 7, of 1.10 and 1.1, and of 20 digits that end in other ones."""
    ids = ["007", "7", "1.10", "1.1", "12345678901234567890", "12345678901234567891", "2024-01-01", "NA"]
    rows = [(e, f"0{q}", arm, int(not (arm == "after" and e == "007")), 1.0)
            for arm in ("before", "after") for q in range(20) for e in ids]  # fmt: skip
    pd.DataFrame(rows, columns=["entity", "query", "arm", "hit", "merit"]).to_csv("ids.csv", index=False)
    who = {"id": ids, "aliases": ["08", "8", *["x"] * 6], "born": ["1815-12-10"] * 4 + ["1900-01-01"] * 4}
    pd.DataFrame({**who, "relation": ["target", *["unrelated"] * 7]}).to_csv("who.csv", index=False)
    assert "the name 'x' stands for" in fails(capsys, "remember", "ids.csv", "--who", "who.csv")
    pd.DataFrame({**who, "aliases": ["08", "8", *"abcdef"]}).assign(relation=["target", *["unrelated"] * 7]).to_csv(
        "who.csv", index=False
    )
    for argv in (["--target", "007"], ["--who", "who.csv"]):
        assert main(["remember", "ids.csv", *argv, *FEW, "-o", "ids.json", "--force"]) == 0
        audit = Audit.from_dict(json.loads(Path("ids.json").read_text()))
        assert audit.find("target", "remembered", "after").value == 0
        assert audit.find("bystanders", "remembered", "after").value == 1
        assert audit.settings["entities"] == 8
    capsys.readouterr()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("remember merit.csv --merit 1", "merit=1.0 is declared, and the table has a column merit of its own"),
        ("remember ledger.parquet --merit 1", "merit=1 is declared, and ledger.parquet has a column merit"),
        ("remember merit.csv --apart", "--apart goes with --who"),
    ],
)
def test_an_option_that_says_what_is_said_already_is_refused(
    capsys: pytest.CaptureFixture[str], argv: str, message: str
) -> None:
    ledger = simulated(np.random.default_rng(1), entities=4, queries=10)
    Path("ledger.parquet").unlink(missing_ok=True)
    write_ledger(ledger, "ledger.parquet")
    table = {"entity": ["a"] * 2, "query": "q", "arm": ["before", "after"], "hit": 1, "merit": 1}
    pd.DataFrame(table).to_csv("merit.csv", index=False)
    assert message in fails(capsys, *argv.split())


def test_a_function_that_cannot_be_asked_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"query": ["q"], "prompt": ["who?"], "entity": ["a"]}).to_csv("q.csv", index=False)
    said = fails(capsys, "remember", "os:getcwd", "os:getcwd", "--ask", "q.csv", "--target", "a")
    assert "os:getcwd cannot be called with a prompt" in said
