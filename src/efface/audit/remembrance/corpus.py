"""Documents that a search finds, and what becomes of the others when some of them are taken down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efface._errors import InputError
from efface._lazy import require
from efface._text import brief, shown
from efface._validate import check_positive_int
from efface.audit.figure import Table
from efface.audit.remembrance.answering import RankedSystem
from efface.audit.remembrance.attention import heirs, shares, shift
from efface.audit.remembrance.exposure import RBP, UserModel
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.names import AliasMatcher
from efface.audit.remembrance.panel import aligned
from efface.audit.remembrance.registry import TARGET, Entity, Registry
from efface.audit.remembrance.systems import AFTER, BEFORE, Query
from efface.audit.remembrance.words import words
from efface.core.doors import check_call, check_fields

_EXTRA = "retrieval"


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents with who they are about.

    Attributes:
        texts: Id -> text.
        about: Id -> entities; every document has an entry, which may be empty.
    """

    texts: Mapping[str, str]
    about: Mapping[str, Sequence[str]]
    __repr__ = brief

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.texts:
            raise InputError("texts is empty: give at least one document")
        lacks = [name for name in self.texts if name not in self.about]
        if lacks or len(self.about) > len(self.texts):
            odd = lacks or [name for name in self.about if name not in self.texts]
            raise InputError(f"document {odd[0]!r} is in one of texts and about ({len(odd)} are): give both for each")
        for name, entities in self.about.items():
            if not isinstance(self.texts[name], str):
                raise InputError(f"texts[{name!r}] is {shown(self.texts[name])}: write the text of the document")
            if not isinstance(entities, list | tuple) or not all(isinstance(entity, str) for entity in entities):
                raise InputError(f"about[{name!r}] is {shown(entities)}: write a list of ids of entities, [] for none")

    @classmethod
    def of(cls, texts: Mapping[str, str], registry: Registry) -> Corpus:
        """Documents about those whom they name.

        >>> Corpus.of({"d": "Ada's engine"}, Registry([Entity("ada"), Entity("mary")])).about
        {'d': ('ada',)}
        """
        check_call(Corpus.of, locals())
        matcher = AliasMatcher(registry)
        return cls(texts, {name: tuple(m.entity for m in matcher.read(text).mentions) for name, text in texts.items()})

    def without(self, documents: Iterable[str] = (), entities: Iterable[str] = ()) -> Corpus:
        """The rest, after some documents are taken down, and all that are about some entities (and about others too).

        Raises:
            InputError: If there is no such document or entity, or nothing is left.
        """
        check_call(Corpus.without, locals())
        gone, named = set(documents), set(entities)
        known = {entity for each in self.about.values() for entity in each}
        for what, strange in (("document", gone - set(self.texts)), ("entity with a document", named - known)):
            if strange:
                raise InputError(f"there is no {what} {sorted(strange)[0]!r} here ({len(strange)} unknown)")
        left = [name for name in self.texts if name not in gone and not named & set(self.about[name])]
        if not left:
            raise InputError("that takes down all documents: nothing would be left to search")
        return Corpus({name: self.texts[name] for name in left}, {name: self.about[name] for name in left})

    def index(self, *, k1: float = 1.2, b: float = 0.75) -> Bm25:
        """A search of it by BM25."""
        return Bm25(self, k1=k1, b=b)

    def system(self, depth: int = 10, **options: float) -> RankedSystem:
        """The search as what an audit asks.

        Args:
            depth: How many documents a user sees.
            options: Of `index`.
        """
        return RankedSystem(self.index(**options).search, self.about, depth)


class Bm25:
    """BM25 over a corpus, by bm25s (Lucene's variant); queries and documents are split into the words that names are.

    Args:
        corpus: What to search.
        k1: How soon more of a word says nothing more.
        b: How much long documents are held back.

    Raises:
        MissingExtraError: If bm25s is not installed.
    """

    def __init__(self, corpus: Corpus, *, k1: float = 1.2, b: float = 0.75) -> None:
        check_call(Bm25.__init__, {"corpus": corpus, "k1": k1, "b": b})
        if not (k1 >= 0 and 0 <= b <= 1):
            raise InputError(f"k1 is {k1} and b is {b}: write k1 from 0 and b from 0 to 1")
        self._ids = list(corpus.texts)
        said = [_terms(text) for text in corpus.texts.values()]
        self._known = {word for each in said for word in each}
        if not self._known:
            raise InputError("no document has a word: there is nothing to search by")
        self._engine: Any = require("bm25s", extra=_EXTRA).BM25(k1=k1, b=b)
        self._engine.index(said, show_progress=False)

    def search(self, query: str, count: int) -> list[str]:
        """Ids of the documents that have a word of the query, the best first; of equals the one that came first."""
        check_call(Bm25.search, locals())
        check_positive_int(count, "count")
        asked = [word for word in _terms(query) if word in self._known]
        if not asked:
            return []
        scores = self._engine.get_scores(asked)
        best = np.argsort(-scores, kind="stable")[:count]
        return [self._ids[place] for place in best.tolist() if scores[place] > 0]


def _terms(text: str) -> list[str]:
    return [word for word in words(text) if word[0].isalnum()]


@dataclass(frozen=True)
class Takedown:
    """What became of everyone when one was taken down.

    Attributes:
        taken: Entity or document.
        documents: How many documents went.
        lost: In how many answers the entity, or those of the document, were and are no more.
        shift: Share of attention that went from some to others.
        rose: Who gained attention, as a share of all, the most first.
        fell: Who lost it, the most first; whom it was meant for is among them.
        heirs: Who comes into the answers that it dropped out of: their share of these.
    """

    taken: str
    documents: int
    lost: int
    shift: float
    rose: tuple[tuple[str, float], ...]
    fell: tuple[tuple[str, float], ...]
    heirs: tuple[tuple[str, float], ...]


def takedowns(
    corpus: Corpus,
    queries: Sequence[Query],
    *,
    entities: Sequence[str] = (),
    documents: Sequence[str] = (),
    depth: int = 10,
    attention: UserModel | None = None,
    listed: int = 5,
    **options: float,
) -> list[Takedown]:
    """Take down one entity or document after the other, each alone: who rises, who falls, who stands where it was.

    The index is built anew each time, so that weights of words change too, as they would.

    Args:
        corpus: The documents.
        queries: What is asked; payloads are texts.
        entities: Whom to take down, each with all its documents.
        documents: Which documents to take down.
        depth: How many documents a user sees.
        attention: Model of users; None takes rank-biased attention.
        listed: How many names to keep of each list.
        options: Of `Corpus.index`.

    Raises:
        InputError: If nothing is to be taken down, or it is not there.

    Does not guarantee: that a difference is more than this corpus and these queries: for intervals give the two
    systems to `ask`, and the ledger to `efface.audit.remembered`.
    """
    check_call(takedowns, locals())
    if not len(entities) and not len(documents):
        raise InputError("entities and documents are both empty: say what to take down")
    everyone = sorted({entity for each in corpus.about.values() for entity in each})
    before = _asked(corpus, queries, depth, options)
    found = []
    for taken, what in [*((e, "entities") for e in entities), *((d, "documents") for d in documents)]:
        rest = corpus.without(**{what: [taken]})
        own = {taken} if what == "entities" else set(corpus.about[taken])
        registry = Registry([Entity(name, relation=TARGET if name in own else "unrelated") for name in everyone])
        answers = {BEFORE: before, AFTER: _asked(rest, queries, depth, options)}
        ledger = Ledger.of_answers(answers, queries, registry, RBP() if attention is None else attention)
        panel = aligned(ledger, registry, (BEFORE, AFTER))
        then, now = (shares(panel.by_entity(panel.exposure[arm])) for arm in (BEFORE, AFTER))
        gained, _, lost = heirs(panel, registry.targets, BEFORE, AFTER)
        names = registry.ids
        change = now - then
        found.append(
            Takedown(
                taken,
                len(corpus.texts) - len(rest.texts),
                lost,
                float(shift(then, now)),
                _first(names, change, listed),
                tuple((name, -value) for name, value in _first(names, -change, listed)),
                _first(names, gained, listed),
            )
        )
    return found


def _asked(corpus: Corpus, queries: Sequence[Query], depth: int, options: Mapping[str, float]) -> dict[Any, Any]:
    system = corpus.system(depth, **options)
    return {(query.id, 0): system.observe(query, 0) for query in queries}


def _first(names: Sequence[str], values: Any, count: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-values, kind="stable")[:count]
    return tuple((str(names[i]), float(values[i])) for i in order.tolist() if values[i] > 1e-12)


def takedown_table(found: Sequence[Takedown]) -> Table:
    """What was taken down, how much attention moved, who rose most, and the first heirs."""
    check_call(takedown_table, locals())

    def said(pairs: Sequence[tuple[str, float]]) -> str:
        return ", ".join(f"{name} {100 * value:+.1f}" for name, value in pairs[:3])

    rows = tuple(
        (e.taken, f"{e.documents:,}", f"{e.lost:,}", f"{100 * e.shift:.1f}", said(e.rose), said(e.fell), said(e.heirs))
        for e in found
    )
    header = ("taken down", "documents", "answers lost", "shift", "rose", "fell", "heirs")
    caption = (
        "each alone; shift, rises and falls in points of all attention; heirs: points of the answers lost in which "
        "they come in"
    )
    return Table("Takedowns, one at a time", header, rows, caption)
