"""Names found in running text, systems that answer in it or rank documents, and takedowns from a corpus."""

from __future__ import annotations

from typing import Any

import pytest

from efface import InputError
from efface.audit import remembered
from efface.audit.remembrance import (
    AliasMatcher,
    AnswerSystem,
    Corpus,
    Entity,
    Ledger,
    Mention,
    Observation,
    Query,
    RankedSystem,
    Registry,
    ask,
    takedown_table,
    takedowns,
)
from efface.audit.remembrance.words import words

PEOPLE = Registry(
    [
        Entity("ada", ("Ada Lovelace", "Countess of Lovelace")),
        Entity("jean", ("Jean",)),
        Entity("jean-paul", ("Jean-Paul Sartre", "Jean-Paul")),
        Entity("obrien", ("O'Brien",)),
        Entity("c++", ("C++",)),
        Entity("c", ("C",)),
        Entity("tokyo", ("東京",)),
        Entity("hindi", ("हिन्दी",)),
        Entity("sj", ("José",)),
        Entity("rocket", ("🚀",)),
    ]
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Ada wrote it.", ["ada"]),
        ("ADA LOVELACE, and again Ada", ["ada"]),
        ("the countess\n of  Lovelace's notes", ["ada"]),
        ("Adam and Adalbert", []),
        ("Jean-Paul met Jean.", ["jean-paul", "jean"]),
        ("Jean\u2010Paul Sartre", ["jean-paul"]),
        ("O\u2019Brien and o'brien", ["obrien"]),
        ("C++ is not C", ["c++", "c"]),
        ("Ａｄａ", ["ada"]),
        ("**Ada** _Jean_ `Ada`", ["ada", "jean"]),
        ("Jose\u0301 and JOSÉ", ["sj"]),
        ("Jose", []),
        ("A\u00adda A\u200bda", ["ada"]),
        ("東京は大きい", ["tokyo"]),
        ("हिन्दी में", ["hindi"]),
        ("हिन्दीभाषी", []),
        ("to the moon 🚀!", ["rocket"]),
        ("ada_lovelace = 1", []),
        ("", []),
    ],
)
def test_names_are_found_by_whole_words_the_longest_first(text: str, named: list[str]) -> None:
    found = AliasMatcher(PEOPLE).read(text)
    assert [mention.entity for mention in found.mentions] == named
    assert [mention.rank for mention in found.mentions] == list(range(len(named)))


def test_plain_text_is_split_as_any_other() -> None:
    from efface.audit.remembrance import words as room

    text = "The _quick_ brown-fox; jumps: o'er 3.5 (lazy) dogs__ a_b c`d \t\n x"
    assert words(text) == room._pattern().findall(room.folded(text))


def test_a_name_of_several_is_refused_or_unresolved_as_the_registry_says() -> None:
    two = [Entity("a", ("Lovelace", "Ada Lovelace")), Entity("b", ("lovelace",))]
    with pytest.raises(InputError, match="'lovelace' stands for a and for b.*ambiguous='apart'"):
        Registry(two)
    apart = Registry(two, ambiguous="apart")
    assert apart.ambiguous_names == {"lovelace": ("a", "b")} and apart.resolve("Lovelace") is None
    found = AliasMatcher(apart).read("Lovelace! Ada Lovelace, lovelace.")
    assert [m.entity for m in found.mentions] == ["a"] and found.unresolved == ("lovelace",)
    assert Observation.of(["Lovelace", "a"], apart).unresolved == ("Lovelace",)
    with pytest.raises(InputError, match="ambiguous is 'maybe'"):
        Registry(two, ambiguous="maybe")  # type: ignore[arg-type]


def test_names_of_the_same_words_are_ambiguous_too() -> None:
    same = [Entity("a", ("C + +",)), Entity("b", ("C++",))]
    with pytest.raises(InputError, match="have the same words"):
        AliasMatcher(Registry(same))
    assert AliasMatcher(Registry(same, ambiguous="apart")).read("C++").unresolved == ("c++",)


@pytest.mark.parametrize("gone", ["nobody", "ada"])
def test_a_callable_is_asked_and_its_answers_become_a_ledger(gone: str) -> None:
    registry = Registry([Entity("ada", ("Ada Lovelace",), relation="target"), Entity("mary", ("Mary",))])

    def model(prompt: str, seed: int) -> str:
        return "I cannot say." if (seed + len(prompt)) % 7 == 0 else "Ada Lovelace; then Mary, of course."

    def edited(prompt: str) -> Any:
        return ["Mary"] if gone == "ada" else ["Ada Lovelace", "Mary", "Bysshe"]

    queries = [Query(f"q{i}", "who" + "o" * i, merit={"ada": 1.0, "mary": 1.0}) for i in range(12)]
    systems = AnswerSystem(model, registry, lambda text: "cannot" in text), AnswerSystem(edited, registry)
    ledger = Ledger.of_answers(ask(*systems, queries, seeds=range(3)), queries, registry)
    audit = remembered(ledger, registry=registry, draws=50)
    assert 0.05 < audit.find("answers", "refused or failed", "before").value < 0.3
    assert audit.find("target", "remembered", "before").value == 1
    assert audit.find("target", "remembered", "after").value == (0 if gone == "ada" else 1)
    assert audit.find("answers", "unresolved names", "after").value == (0 if gone == "ada" else 1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda prompt: 3, "the answer to query 'q' is 3: return text"),
        (lambda prompt: None, "is None"),
        (lambda prompt: [1, 2], "is a list"),
        (lambda prompt: {"ada": 1}, "is a dict"),
        (lambda: "x", "cannot be called with a prompt"),
        (lambda a, b, c: "x", "cannot be called with a prompt"),
        ("gpt", "answer is 'gpt'"),
    ],
)
def test_answers_that_are_none_are_refused(answer: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        AnswerSystem(answer, Registry([Entity("ada")])).observe(Query("q", "who?"), 0)


def test_an_observation_is_taken_as_it_is() -> None:
    refused = Observation(status="refused")
    assert AnswerSystem(lambda prompt: refused, PEOPLE).observe(Query("q"), 0) is refused


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (lambda q, k: ["d9"], "'d9' for query 'q', of which `about` says nothing"),
        (lambda q, k: ["d1", "d1"], "a document twice"),
    ],
)
def test_rankings_with_strange_documents_are_refused(search: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        RankedSystem(search, {"d1": ["ada"]}).observe(Query("q", "x"), 0)
    with pytest.raises(InputError, match="depth is 0"):
        RankedSystem(search, {"d1": ["ada"]}, 0)


TEXTS = {
    "d1": "Ada Lovelace wrote notes on the engine of Babbage",
    "d2": "Mary Somerville wrote on the connexion of the sciences",
    "d3": "the engine was designed by Charles, and the engine of engines is his",
    "d4": "Mary taught Ada",
    "d5": "nothing of the kind",
}
WHO = Registry(
    [Entity("ada", ("Ada Lovelace",)), Entity("mary", ("Mary Somerville",)), Entity("charles", ("Babbage",))]
)


def test_a_search_ranks_by_bm25_and_gives_no_document_without_a_word_of_the_query() -> None:
    corpus = Corpus.of(TEXTS, WHO)
    assert corpus.about["d1"] == ("ada", "charles") and corpus.about["d5"] == ()
    index = corpus.index()
    assert index.search("the ENGINE\u2019s engine", 3)[0] == "d3"
    assert index.search("Somerville", 10) == ["d2"]
    assert index.search("zeppelin ?!", 10) == [] and index.search("", 10) == []
    seen = corpus.system(depth=2).observe(Query("q", "notes on the engine"), 0)
    assert seen.mentions[:2] == (Mention("ada", 0), Mention("charles", 0))


def test_scores_are_those_of_the_formula() -> None:
    """Lucene's BM25: idf `ln(1 + (N - n + 1/2) / (n + 1/2))`, tf `f / (f + k1 (1 - b + b length / mean length))`."""
    from math import log

    index = Corpus(TEXTS, dict.fromkeys(TEXTS, ())).index(k1=0.9, b=0.4)
    said = {name: [w for w in words(text) if w[0].isalnum()] for name, text in TEXTS.items()}
    mean = sum(map(len, said.values())) / len(said)
    holds = sum("engine" in each for each in said.values())
    idf = log(1 + (len(said) - holds + 0.5) / (holds + 0.5))
    for place, each in enumerate(said.values()):
        f = each.count("engine")
        expected = idf * f / (f + 0.9 * (1 - 0.4 + 0.4 * len(each) / mean))
        assert index._engine.get_scores(["engine"])[place] == pytest.approx(expected, rel=1e-4)


def test_a_takedown_names_who_rises_who_falls_and_the_heirs() -> None:
    corpus = Corpus.of(TEXTS, WHO)
    queries = [Query("q1", "notes on the engine"), Query("q2", "the sciences"), Query("q3", "Mary")]
    by_entity, by_document = takedowns(corpus, queries, entities=["ada"], documents=["d2"], depth=1)
    assert (by_entity.taken, by_entity.documents, by_entity.lost) == ("ada", 2, 2)
    # Before: d1 (ada, charles), d2 (mary), d4 (mary, ada); after: d3 (charles), d2 (mary), d2 (mary).
    assert dict(by_entity.fell) == pytest.approx({"ada": -2 / 5})
    assert dict(by_entity.rose) == pytest.approx({"mary": 4 / 15, "charles": 2 / 15})
    assert by_entity.shift == pytest.approx(2 / 5) and not by_entity.heirs  # who stands there stood there before
    # Of "the sciences" d5 is left, which is about nobody.
    assert by_document.documents == 1 and dict(by_document.fell) == pytest.approx({"mary": 1 / 4 - 2 / 5})
    assert dict(by_document.rose) == pytest.approx({"ada": 1 / 10, "charles": 1 / 20}) and not by_document.heirs
    rows = takedown_table([by_entity, by_document]).rows
    assert [row[0] for row in rows] == ["ada", "d2"] and len(rows[0]) == 7
    rest = corpus.without(documents=["d3"], entities=["mary"])
    assert list(rest.texts) == ["d1", "d5"] and list(corpus.texts) == list(TEXTS)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.without(entities=["bob"]), "no entity with a document 'bob'"),
        (lambda c: c.without(documents=["d9"]), "no document 'd9'"),
        (lambda c: c.without(documents=TEXTS), "nothing would be left"),
        (lambda c: takedowns(c, [Query("q", "x")]), "say what to take down"),
        (lambda c: takedowns(c, [Query("q", "engine")], entities=["bob"]), "no entity"),
        (lambda c: Corpus(TEXTS, {"d1": ["ada"]}), "document 'd2' is in one of texts and about"),
        (lambda c: Corpus({"d1": "x"}, {"d1": "ada"}), "about\\['d1'\\] is 'ada': write a list|about is"),
        (lambda c: Corpus({"d1": "x"}, {"d1": [3]}), "about\\['d1'\\] is a list: write a list of ids"),  # type: ignore
        (lambda c: Corpus({"d1": None}, {"d1": []}), "texts\\['d1'\\] is None|texts is"),  # type: ignore
        (lambda c: Corpus({}, {}), "at least one document"),
        (lambda c: Corpus({"d": "..."}, {"d": []}).index(), "no document has a word"),
        (lambda c: c.index(b=2.0), "b from 0 to 1"),
        (lambda c: c.index().search("x", 0), "count"),
        (lambda c: c.index().search(None, 3), "query is None"),
    ],
)
def test_what_cannot_be_searched_or_taken_down_is_refused(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(Corpus.of(TEXTS, WHO))


def test_a_system_that_gives_no_observation_is_refused() -> None:
    class Says:
        def observe(self, query: Query, seed: int) -> Any:
            return "Ada"

    with pytest.raises(InputError, match="the answer to 'q' is a str, expected a Observation"):
        ask(Says(), Says(), [Query("q", "who?", {"ada": 1.0})])
