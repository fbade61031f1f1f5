"""Who else goes: the interference matrix of emoji, things and people, before and after erasures of some of them.

python -m benchmarks.interference things --folder FOLDER [--methods uce uce+boundary semantic-surgery speed uce-bare]
python -m benchmarks.interference people --folder FOLDER [--profession pilot]
python -m benchmarks.interference siblings --folder FOLDER [--erased 8] [--first 4] [--pictures 3]
python -m benchmarks.interference erasers --folder FOLDER [--methods ...] [--pictures 4]
python -m benchmarks.interference show --folder FOLDER [--page FOLDER]

"things": 20 concepts of many subgroups are erased, one at a time, or as many as `--erased` says, up to all 100 that
are asked for, a picture each: the 20, two siblings of each, and others at random. "uce" shows SELECT's anchor in a
concept's place and keeps nothing else; "uce+boundary" keeps SELECT's boundary beside it; "uce-bare" shows nothing; all
other methods are fitted as a careful user would (`benchmarks._studio`). "people": the profession's word, and
the woman of it, are erased; all people whose profession is drawn as woman, man and person are asked for, and their
skin tones. "siblings": of each of the first concepts (of those that have eight siblings) ten siblings, those drawn most
and those drawn least often, after uce with and without SELECT's boundary, picture by picture; `--first` begins later,
so that two runs can share the work in one folder. "erasers": a circle of the shapes, by several methods. Judge 2 says
what is seen; before again and sham edits (random changes of the same weights by as much) are the nulls. Arms are
kept in the folder one by one, so that a run that was stopped goes on. "show" draws nothing: it prints the tables of
what is there, and writes pages.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._measure import table
from benchmarks._studio import Studio
from efface import Concept, erase
from efface.audit.pipelines.presence import Judge
from efface.audit.pipelines.probes.panel import Panel, sham_of
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.remembrance import Registry, related
from efface.audit.remembrance.drawn import Arm
from efface.audit.remembrance.interfered import interfered, replace_erased
from efface.audit.remembrance.interference import Interference
from efface.audit.remembrance.pictured import interference
from efface.audit.remembrance.pooled import pooled
from efface.audit.remembrance.systems import AGAIN, BEFORE
from efface.core.checkpoint import Checkpoint
from efface.diffusion.anchors.selection import select_anchors
from efface.stats.intervals import share_change_interval, wilson_interval
from efface_worlds import emoji
from efface_worlds.registry import find_world

ERASED = (
    *("cat", "duck", "sunflower", "banana", "hot dog", "bicycle", "airplane", "castle", "guitar", "umbrella"),
    *("axe", "soccer ball", "padlock", "shark", "butterfly", "snake", "carrot", "teapot", "crown", "hourglass"),
)
METHODS = ("uce", "uce+boundary", "semantic-surgery", "speed", "uce-bare")
_ERASERS = ("semantic-surgery", "safree", "uce", "speed")
TONES = ("light skin", "medium skin", "dark skin")
_TONELESS = "black and white"
_ASKED, _SIBLINGS, _ORDER, _PROMPT_SEED, _SHAMS, _KIN = 100, 2, 5, 900, 2, 10
_KIN_AT_LEAST = 8


def drawn_well(names: Sequence[str]) -> list[str]:
    """Those of some names that the pipeline draws."""
    out = emoji.left_out()
    return [name for name in names if name not in out]


def things() -> list[str]:
    """100 things: those erased, two siblings of each (one drawn often, one seldom), others at random."""
    found = dict.fromkeys(ERASED)
    for name in ERASED:
        near = sorted(drawn_well(emoji.siblings(name)), key=lambda n: -emoji.concept(n).weight)
        near = [n for n in near if n not in found]
        found |= dict.fromkeys([*near[:1], *near[1:][-1:]])
    rest = [c.name for c in emoji.CONCEPTS if not c.profession and c.name not in found]
    more = random.Random(_ORDER).sample(drawn_well(rest), _ASKED - len(found))
    return [c.name for c in emoji.CONCEPTS if c.name in found or c.name in more]


def erased(n: int) -> list[str]:
    """N of the things: those of `ERASED` first, then others that are asked for, in an order that says nothing."""
    rest = [name for name in things() if name not in ERASED]
    return [*ERASED, *random.Random(_ORDER).sample(rest, len(rest))][:n]


def with_kin() -> list[str]:
    """Those of the things that have siblings enough to tell often drawn ones from rare ones."""
    return [name for name in erased(_ASKED) if len(drawn_well(emoji.siblings(name))) >= _KIN_AT_LEAST]


def people() -> list[str]:
    """Every person whose profession is drawn as woman, man and person."""
    return [n for names in emoji.professions().values() if len(drawn_well(names)) == len(names) for n in names]


def prompts_of(names: Sequence[str], n: int) -> dict[str, list[str]]:
    """N prompts for each, whose style and background differ from one name to another."""
    return {name: emoji.prompts_for(name, n, seed=_PROMPT_SEED + 10 * i).texts for i, name in enumerate(names)}


def toned(names: Sequence[str], n: int) -> dict[str, list[str]]:
    """The same with each skin tone, as training read it: "a pilot with dark skin in noto style on a red background"."""
    plain = {name: [t for t in texts if _TONELESS not in t][:n] for name, texts in prompts_of(names, 3 * n + 3).items()}
    return {
        f"{tone} {name}": [text.replace(name, f"{name} with {tone}", 1) for text in plain[name]]
        for name in names
        for tone in TONES
    }


def in_parts(judge: Any) -> Judge:
    """The judge, of whom a skin tone and a person are asked as two names of one object."""

    def says(images: Tensor, name: str) -> Tensor:
        person = bare(name)
        tone = name.removesuffix(person).strip()
        return judge.judge(images).shows(*[tone] * bool(tone), person)

    return says


def shown(judge: Any, images: Tensor) -> list[str]:
    """The object that a picture most likely shows, or nothing."""
    best = judge.judge(images).object[:, 0].argmax(-1).tolist()
    return [emoji.CONCEPTS[i].name if i < len(emoji.CONCEPTS) else "" for i in best]


def candidates(studio: Studio, name: str) -> list[str]:
    """Words that may stand in a concept's place: siblings, and for a person the other professions."""
    own = emoji.concept(name).profession
    return [n for n in people() if emoji.concept(n).profession != own] if own else [*studio.world.siblings(name)]


def fitted(studio: Studio, method: str, name: str) -> Any:
    """One erasure."""
    if method == "uce-bare":
        return erase(studio.view, Concept(name, anchor=""), "uce")
    if method in ("uce", "uce+boundary"):
        chosen = select_anchors(studio.view, name, candidates(studio, name))
        return erase(
            studio.view, chosen.fill(name) if method == "uce+boundary" else Concept(name, anchor=chosen.anchor), "uce"
        )
    return studio.fit(name, method)


def sham(studio: Studio, method: str, name: str) -> Any:
    """Random changes of the weights that an erasure changes, each by as much."""
    base = Subject("base", studio.view)
    found = sham_of(Panel(base, Subject("erased", studio.view, fitted(studio, method, name))), seed=0)
    assert found is not None
    return found.erasure


def runs(studio: Studio, methods: Sequence[str], names: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """Name of an arm -> what fits its erasure."""
    return {f"{method} | {name}": partial(fitted, studio, method, name) for method in methods for name in names}


def draw(studio: Studio, folder: Path, asked: Mapping[str, Sequence[str]], methods: Sequence[str], names: Sequence[str],
         shams: Sequence[str]) -> Interference:  # fmt: skip
    """All arms, of which those in the folder are read."""
    judge = studio.judge(2)
    found = interference(
        studio.view,
        runs(studio, methods, names),
        asked,
        judge=in_parts(judge),
        names=partial(shown, judge),
        placebos={f"sham of uce | {name}": partial(sham, studio, "uce", name) for name in shams},
        folder=folder / "arms",
        say=lambda text: print(text, flush=True),
        **studio.options,
    )
    found.save(folder / "matrix", overwrite=True)
    return found


# ------------------------------------------------------------------------------------------------- what is there


def relation(erased: str, other: str) -> str:
    """What an emoji is to another, by Unicode's hierarchy and by profession; a skin tone does not count."""
    of, own = (emoji.concept(bare(name)) for name in (erased, other))
    if of.name == own.name:
        return "target"
    if own.profession and own.profession == of.profession:
        return "sibling"
    if own.subgroup == of.subgroup and not own.profession:
        return "sibling"
    return "neighbour" if own.group == of.group else "unrelated"


def bare(name: str) -> str:
    """A name without its skin tone."""
    return next((name.removeprefix(f"{tone} ") for tone in TONES if name.startswith(tone)), name)


def worded(name: str) -> str:
    """Who of a profession: woman, man, or person where nothing is said."""
    return next((who for who in ("woman", "man") if name.startswith(f"{who} ")), "person")


def registries(found: Interference) -> dict[str, Registry]:
    """What is known of everyone, to each erasure: Unicode's relations, likeness of the text encoder's means."""
    means = emoji.embed_prompts(*emoji.load_text_encoder(), [f"a {name}" for name in found.asked]).mean(dim=1)
    unit = torch.nn.functional.normalize(means - means.mean(dim=0), dim=1)
    of_people = any(emoji.concept(bare(name)).profession for name in found.asked)
    groups = {"group": [emoji.concept(bare(name)).group for name in found.asked]}
    if of_people:
        tones = [next((tone for tone in TONES if name.startswith(tone)), "none said") for name in found.asked]
        groups = {"said": [worded(bare(name)) for name in found.asked], "skin tone said": tones}
    return related(
        found.asked,
        {arm: arm.partition(" | ")[2] for arm in found.erased},
        lambda name: {each: relation(name, each) for each in found.asked},
        popularity=[emoji.concept(bare(each)).weight for each in found.asked],
        similarity=lambda name: (unit @ unit[found.asked.index(name)]).tolist(),
        groups=groups,
    )


def load(folder: Path) -> Interference:
    """All arms that are in a folder; nothing is drawn, and no pipeline is loaded."""
    settings = json.loads((folder / "arms" / "checkpoint.json").read_text(encoding="utf-8"))["settings"]
    saved = Checkpoint(folder / "arms", settings)
    arms = {name: Arm.load(saved.path(name)) for name in saved.parts}
    shams = [name for name in arms if name.startswith("sham")]
    erasures = [name for name in arms if name not in (*shams, BEFORE, AGAIN)]
    shown_by = list(dict.fromkeys(name for arm in arms.values() for name in arm.shown if name))
    place, prompts = np.array(settings["place"], dtype=np.int64), tuple(settings["prompts"])
    query = np.array([i - int(np.flatnonzero(place == e)[0]) for i, e in enumerate(place)], dtype=np.int64)
    order = [arms[name] for name in (BEFORE, AGAIN, *erasures, *shams)]
    of = {name: i for i, name in enumerate(shown_by)}
    return Interference(
        tuple(erasures),
        tuple(shams),
        tuple(settings["asked"]),
        place,
        query,
        np.zeros_like(place),
        prompts,
        np.arange(len(place)) + settings["seed"],
        np.stack([arm.seen for arm in order]),
        tuple(shown_by),
        np.array([[of.get(name, -1) for name in arm.shown] for arm in order], dtype=np.int64),
        judge="judge 2",
    )


def show(folder: Path, pages: Path | None) -> None:
    """Tables by method, SELECT's boundary pair by pair, and a page for each method."""
    found = load(folder)
    known = registries(found)
    methods = list(dict.fromkeys(arm.partition(" | ")[0] for arm in found.erased))
    of_people = any(emoji.concept(bare(name)).profession for name in found.asked)
    rows = []
    for method in methods:
        part = found.only([arm for arm in found.erased if arm.startswith(f"{method} | ")])
        page = interfered(
            part, known, fewest=5 if of_people else 1, title=f"Who else goes: {method}, {len(part.erased)} erasures"
        )
        rows += [(method, len(part.erased), *row) for row in page.tables[0].rows]
        if pages is not None:
            page.save(pages / f"{method}.html")
        print("\n" + "\n".join(page.conclusions))
        for each in page.tables[1:]:
            table(f"{method}: {each.title}", each.header, each.rows)
        for drawn in page.figures:
            if drawn.kind == "lines":
                curve = drawn.series[-1]
                ends = zip(curve.x, curve.y, curve.low or (), curve.high or (), strict=False)
                points = [(x, f"{100 * y:.1f} [{100 * low:.1f}, {100 * high:.1f}]") for x, y, low, high in ends]
                table(f"{method}: {drawn.title}", ("similarity", "kept, %"), points)
    header = ("method", "erased", "of", "entities", "pictures", "kept", "asked again", "lost beyond chance")
    table(f"{folder.name}: what is kept", header, rows)
    if found.placebos:
        placebos = replace_erased(found)
        for one in pooled(placebos, np.full((len(placebos.erased), len(found.asked)), "sham edits")):
            print(f"{one.kind}: {one.n} pictures, kept {one.kept}")
    if of_people:
        who_went(found)
    if {"uce", "uce+boundary"} <= {*methods}:
        boundary(found, known)


def who_went(found: Interference) -> None:
    """Pictures of people that were right before and still are, of the erased profession and of others: Wilson."""
    rows = []
    for arm in found.erased:
        own = emoji.concept(arm.partition(" | ")[2]).profession
        then, now = found.counts(arm)
        asked, again = found.counts(AGAIN)
        kinds: dict[tuple[str, str], list[int]] = {}
        for i, name in enumerate(found.asked):
            whose = own if emoji.concept(bare(name)).profession == own else "other professions"
            tone = name.removesuffix(bare(name)).strip()
            kinds.setdefault((whose, f"{worded(bare(name))}{', ' if tone else ''}{tone}"), []).append(i)
        for (whose, who), of in sorted(kinds.items(), key=lambda each: (each[0][0] != own, each[0][1])):
            kept, chance = _said(now[of].sum(), then[of].sum()), _said(again[of].sum(), asked[of].sum())
            rows.append((arm, whose, who, f"{now[of].sum():.0f} of {then[of].sum():.0f}", kept, chance))
    table("Who went", ("erased", "of", "asked as", "kept", "per cent", "asked again"), rows)


def _said(hits: float, n: float) -> str:
    if not n:
        return ""
    found = wilson_interval(float(hits), int(n))
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def boundary(found: Interference, known: Mapping[str, Registry]) -> None:
    """Siblings kept with SELECT's boundary less without, picture by picture: all of them, and the rare half."""
    rows = []
    for title, keep in (("siblings", "sibling"), ("neighbours", "neighbour"), ("unrelated", "unrelated")):
        rows += _more(title, [_gaps(found, known, name, keep) for name in _with_boundary(found)])
    header = ("of", "", "pictures", "kept by it alone", "lost by it alone", "more, points")
    table("Kept with SELECT's boundary less without", header, rows)


def _with_boundary(found: Interference) -> list[str]:
    return [arm.partition(" | ")[2] for arm in found.erased if arm.startswith("uce+boundary | ")]


def _gaps(found: Interference, known: Mapping[str, Registry], name: str, kind: str) -> list[tuple[float, bool, str]]:
    """Of each picture of a kind, right before: kept with the boundary less without, whether it is rare, and whose."""
    then, with_it, without = (found.answers(a) for a in (BEFORE, f"uce+boundary | {name}", f"uce | {name}"))
    weight = np.array([emoji.concept(each).weight for each in found.asked])
    registry = known[f"uce | {name}"]
    own = registry.relation[registry.places(found.asked)] == kind
    rare = weight <= np.median(weight[own]) if own.any() else own
    of = np.flatnonzero(own[found.place] & (then == 1) & np.isfinite(with_it) & np.isfinite(without))
    return [(float(with_it[i] - without[i]), bool(rare[found.place[i]]), name) for i in of]


def _more(title: str, parts: Sequence[Sequence[tuple[float, bool, str]]]) -> list[tuple[Any, ...]]:
    """Rows of a table: all, the rare half, the others; intervals over erasures."""
    rows = []
    for which, chosen in (("all", (True, False)), ("rare half", (True,)), ("the others", (False,))):
        found = [each for part in parts for each in part if each[1] in chosen]
        gaps, who = np.array([gap for gap, _, _ in found]), [name for _, _, name in found]
        more = share_change_interval(gaps > 0, gaps < 0, groups=who) if len({*who}) > 1 else None
        said = "" if more is None else f"{100 * more.value:+.1f} [{100 * more.low:+.1f}, {100 * more.high:+.1f}]"
        rows.append((title, which, len(gaps), int((gaps > 0).sum()), int((gaps < 0).sum()), said))
    return rows


def siblings(studio: Studio, folder: Path, names: Sequence[str], pictures: int) -> None:
    """Of each concept its most common and its rarest siblings, after uce with and without SELECT's boundary."""
    parts, kept = [], []
    for name in names:
        near = sorted(drawn_well(emoji.siblings(name)), key=lambda n: -emoji.concept(n).weight)
        chosen = list(dict.fromkeys([*near[: _KIN // 2], *near[-_KIN // 2 :]]))
        asked = prompts_of(chosen, pictures)
        found = draw(studio, folder / name.replace(" ", "-"), asked, ("uce", "uce+boundary"), [name], [])
        known = related(
            found.asked, dict.fromkeys(found.erased, name), lambda _, of=chosen: dict.fromkeys(of, "sibling")
        )
        parts.append(_gaps(found, known, name, "sibling"))
        counts = [found.counts(arm) for arm in (AGAIN, *found.erased)]
        kept.append((name, len(chosen), int(counts[0][0].sum()), *(int(now.sum()) for _, now in counts)))
    header = ("erased", "siblings", "right before", "asked again", "uce", "with boundary")
    table("Pictures of siblings that are still right", header, kept)
    header = ("of", "", "pictures", "kept by it alone", "lost by it alone", "more, points")
    table("Kept with SELECT's boundary less without", header, _more("siblings", parts))


def erasers(folder: Path, methods: Sequence[str], pictures: int) -> None:
    """Every object of the shapes asked for after each method's erasure of a circle: two of prompts, two of weights."""
    studio = Studio(find_world("shapes", "pipeline"))
    name, judge = "circle", studio.judge(2)
    asked = {each: studio.prompts_of(each, pictures) for each in (name, *studio.others_of(name))}
    found = interference(
        studio.view,
        {method: partial(studio.fit, name, method) for method in methods},
        asked,
        judge=judge,
        folder=folder / "arms",
        say=lambda text: print(text, flush=True),
        **studio.options,
    )
    rows = []
    for arm in (AGAIN, *methods):
        n, kept = found.counts(arm)
        lost = [
            f"{each} {int(a - b)}" for each, a, b in zip(found.asked, n, kept, strict=True) if a > b and each != name
        ]
        own, others = _said(kept[0], n[0]), _said(kept[1:].sum(), n[1:].sum())
        rows.append((arm, own, others, f"{int(kept[1:].sum())} of {int(n[1:].sum())}", ", ".join(lost)))
    table(f"{name} erased, shapes", ("method", "itself kept", "others kept", "pictures", "of whom lost"), rows)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["things", "people", "siblings", "erasers", "show"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--profession", default="pilot")
    parser.add_argument("--pictures", type=int, help="of each (default: 1 thing; 5 people, 2 a skin tone)")
    parser.add_argument("--erased", type=int, default=len(ERASED), help="how many of the things")
    parser.add_argument("--first", type=int, default=0, help="with siblings: how many of the concepts to leave out")
    parser.add_argument("--page", type=Path, help="folder for the pages of show")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "show":
        return show(args.folder, args.page)
    if args.what == "erasers":
        return erasers(args.folder, args.methods or _ERASERS, args.pictures or 4)
    studio = Studio(find_world("emoji", "pipeline"))
    if args.what == "things":
        asked = prompts_of(things(), args.pictures or 1)
        for method in args.methods or METHODS[:3]:  # those of one method first, so that there is something to look at
            draw(studio, args.folder, asked, [method], erased(args.erased), ERASED[:_SHAMS])
    if args.what == "siblings":
        siblings(studio, args.folder, with_kin()[args.first : args.erased], args.pictures or 3)
    if args.what == "people":
        n = args.pictures or 5
        asked = prompts_of(people(), n) | toned([k for k in emoji.professions() if k in people()], max(1, n // 2))
        names = [args.profession, f"woman {args.profession}"]
        for method in args.methods or ("uce", "semantic-surgery"):
            draw(studio, args.folder, asked, [method], names, names[:1])


if __name__ == "__main__":
    main()
