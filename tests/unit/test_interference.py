"""The interference matrix: common noise, arms that go on, what counts as kept, and its card."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from efface import InputError
from efface._errors import FormatError
from efface.audit.remembrance import Registry
from efface.audit.remembrance.interfered import interfered
from efface.audit.remembrance.interference import Interference
from efface.audit.remembrance.pictured import interference, pictures_of, remembered_by_pictures
from efface.audit.remembrance.pooled import pooled, spread
from efface.audit.remembrance.remembered import remembered
from efface.core.edits import OnText

NAMES = ("cat", "dog", "oak", "elm", "sun", "moon")


class View:
    """Draws a picture whose colour says which of `NAMES` is asked for, but for those that are gone; and remembers."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.calls: list[tuple[str, int]] = []
        self.pipe = SimpleNamespace()
        self.reader, net, vae = (torch.nn.Linear(1, 1).requires_grad_(False) for _ in range(3))
        for part in (self.reader, net, vae):
            part.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.ones(1)})
        parts = {"text_encoders": {"text_encoder": self.reader}, "denoisers": {"unet": net}}
        self.components = SimpleNamespace(**parts, vae=vae)

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], **_options: Any) -> Tensor:
        self.calls += zip(prompts, seeds, strict=True)
        codes = [0.0 if p.split()[-1] in self.gone else (1 + NAMES.index(p.split()[-1])) / 10 for p in prompts]
        return torch.tensor(codes)[:, None, None, None].expand(-1, 3, 2, 2).clone()

    def encode(self, prompts: Sequence[str], **_options: Any) -> Any:
        rows = [torch.tensor([NAMES.index(p.split()[-1]) * (p.split()[-1] not in self.gone)]) for p in prompts]
        return [SimpleNamespace(tensors=lambda row=row: {"rows": row}) for row in rows]

    def check_embedding(self, embedding: Any) -> None: ...
    def check_concept(self, concept: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class Erasing:
    """Takes some of them away."""

    gone: tuple[str, ...]
    edits: tuple[Any, ...] = ()

    @contextmanager
    def on(self, view: View) -> Iterator[None]:
        view.gone |= {*self.gone}
        yield
        view.gone -= {*self.gone}


def judge(images: Tensor, name: str) -> Tensor:
    return (images[:, 0, 0, 0] * 10 - 1 - NAMES.index(name)).abs() < 0.01


def named(images: Tensor) -> list[str]:
    return [NAMES[round(c * 10) - 1] if c > 0.05 else "" for c in images[:, 0, 0, 0].tolist()]


ASKED = {name: [f"a {name}", f"the {name}"] for name in NAMES}
ERASURES = {"no cat": Erasing(("cat",)), "no trees": Erasing(("oak", "elm"))}


def drawn(view: View | None = None, erasures: Mapping[str, Any] = ERASURES, **options: Any) -> Interference:
    return interference(view or View(), erasures, ASKED, **{"judge": judge, "names": named, "seeds": 2, **options})


# ------------------------------------------------------------------------------------------------------ drawing


def test_arms_share_their_noise_and_before_again_does_not() -> None:
    view = View()
    found = drawn(view, placebos={"sham": Erasing(())}, seed=7)
    calls = [view.calls[i : i + 24] for i in range(0, len(view.calls), 24)]
    assert len(calls) == 5 and calls[0] == calls[2] == calls[3] == calls[4]
    assert [seed for _, seed in calls[0]] == [*range(7, 31)] and [seed for _, seed in calls[1]] == [*range(31, 55)]
    assert found.arms == ("before", "before again", "no cat", "no trees", "sham")
    assert (
        found.kept.value.tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1]] and found.kept.n.tolist() == [[4] * 6] * 2
    )
    assert found.names == NAMES and found.shown is not None and (found.shown[2] == -1).sum() == 4


def test_pictures_that_an_edit_of_text_cannot_change_are_not_drawn_again() -> None:
    view = View()
    erasure = Erasing(("moon",), (OnText(lambda embedding, run: None),))
    found = drawn(view, {"no moon": erasure})
    assert len(view.calls) == 24 + 24 + 4 and {prompt for prompt, _ in view.calls[48:]} == {"a moon", "the moon"}
    assert found.kept.value.tolist() == [[1, 1, 1, 1, 1, 0]]


def test_what_was_interrupted_goes_on_and_more_may_be_asked_later(tmp_path: Path) -> None:
    def stopped() -> Any:
        raise KeyboardInterrupt

    view = View()
    with pytest.raises(KeyboardInterrupt):
        drawn(view, {**ERASURES, "third": stopped}, folder=tmp_path, pictures=True)
    again = View()
    found = drawn(again, {**ERASURES, "third": lambda: Erasing(("sun",))}, folder=tmp_path, pictures=True)
    assert len(again.calls) == 24 and found.digest == drawn(View(), {**ERASURES, "third": Erasing(("sun",))}).digest
    assert pictures_of(tmp_path, "no cat").shape == (24, 3, 2, 2) and int(pictures_of(tmp_path, "no cat")[0].max()) == 0
    with pytest.raises(InputError, match="differs in seed"):
        drawn(View(), folder=tmp_path, pictures=True, seed=3)
    other = View()
    other.reader.weight += 1
    with pytest.raises(InputError, match="differs in pipeline"):
        drawn(other, folder=tmp_path, pictures=True)
    with pytest.raises(InputError, match="has no arm 'fourth'"):
        pictures_of(tmp_path, "fourth")


def test_a_pipeline_that_never_saw_it_is_a_row_like_any_other() -> None:
    gold = View()
    gold.gone.add("cat")
    assert drawn(View(), {"without cat": gold}).kept.value[0].tolist() == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("erasures", "options", "said"),
    [
        ({}, {}, "there are 0 erasures"),
        ({"before": Erasing(())}, {}, "two arms are called 'before'"),
        (ERASURES, {"placebos": {"no cat": Erasing(())}}, "two arms are called 'no cat'"),
        (ERASURES, {"seeds": 0}, "seeds"),
        (ERASURES, {"batch_size": 0}, "batch_size"),
        ({"x": 3}, {}, "is nothing that efface erases from"),
        (ERASURES, {"pictures": True}, "write folder="),
        (ERASURES, {"names": lambda images: []}, "names gave 0 values"),
        (ERASURES, {"judge": lambda images, name: torch.full((len(images),), 7.0)}, "outside of 0 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(erasures: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        drawn(View(), erasures, **options)


def test_prompts_that_are_one_text_are_refused() -> None:
    with pytest.raises(InputError, match=r"asked\['cat'\] is 'a cat': write a list"):
        interference(View(), ERASURES, {"cat": "a cat"}, judge=judge)
    with pytest.raises(InputError, match="a prompt of 'cat' is 3"):
        interference(View(), ERASURES, {"cat": [3]}, judge=judge)  # type: ignore[list-item]


# --------------------------------------------------------------------------------------------------- the matrix


def simulated(
    entities: int = 40, erased: int = 10, pictures: int = 4, near: float = 0.0, seed: int = 0
) -> Interference:
    """Drawn in nine of ten pictures; erasing one takes it, and of the next three each picture with a chance."""
    rng = np.random.default_rng(seed)
    names = tuple(f"e{i:02d}" for i in range(entities))
    gone = names[:: entities // erased][:erased]
    place = np.repeat(np.arange(entities), pictures)
    base = rng.random(len(place)) < 0.9
    rows = [base, np.where(rng.random(len(place)) < 0.9, base, ~base)]
    for name in gone:
        far = place - names.index(name)
        hit = np.where(rng.random(len(place)) < 0.9, base, ~base) & (far != 0)
        rows.append(hit & ~((far > 0) & (far < 4) & (rng.random(len(place)) < near)))
    seen = np.stack(rows).astype(np.int8)
    shown = np.where(seen == 1, place, (place + 1) % entities)
    return Interference(gone, (), names, place, np.tile(np.arange(pictures), entities), np.zeros_like(place),
                        tuple(f"a {names[p]}" for p in place), np.arange(len(place)), seen, names, shown)  # fmt: skip


def known_of(found: Interference) -> dict[str, Registry]:
    registries = {}
    for name in found.erased:
        far = [i - found.asked.index(name) for i in range(len(found.asked))]
        kin = ["target" if d == 0 else "sibling" if 0 < d < 4 else "unrelated" for d in far]
        registries[name] = Registry.of(
            found.asked,
            relation=kin,
            similarity=[-float(abs(d)) for d in far],
            popularity=[1.0 + i % 3 for i in range(len(far))],
            groups={"colour": ["rare" if i < 3 else ("red", "green")[i % 2] for i in range(len(far))]},
        )
    return registries


def test_cells_count_what_a_judge_can_say() -> None:
    found = drawn()
    seen = found.seen.copy()
    seen[2, :2], seen[0, 4] = -1, -1  # of two cats after, and of one dog before, nobody can say
    some = dataclasses.replace(found, seen=seen)
    assert some.kept.n[0].tolist() == [2, 3, 4, 4, 4, 4] and some.kept.value[0, 0] == 0.0
    assert some.unsaid("no cat").tolist() == [0.5, 0, 0, 0, 0, 0] and some.share("before").tolist() == [1.0] * 6
    assert some.changed.value[0].tolist() == [-1, 0, 0, 0, 0, 0] and (some.changed.low <= some.changed.value).all()
    ledger = some.ledger("no cat")
    assert ledger.arms == ("after", "before", "before again") and (ledger.answers["status"] == 2).sum() == 3


def test_pooled_is_a_ratio_of_sums_and_leaves_out_what_has_no_kind() -> None:
    found = simulated(near=0.5)
    kinds = np.where(np.stack([r.relation for r in known_of(found).values()]) == "sibling", "sibling", "")
    (one,) = pooled(found, kinds, draws=50)
    n = k = 0
    for name, row in zip(found.erased, kinds, strict=True):
        then, now = found.answers("before"), found.answers(name)
        for place, a, b in zip(found.place, then, now, strict=True):
            if row[place] and a == 1:
                n, k = n + 1, k + int(b)
    assert (one.n, one.pairs, one.kept.value) == (n, 30, k / n) and one.kept.low < k / n < one.kept.high
    assert one.again is not None and one.lost is not None and one.lost.value == one.again.value - one.kept.value
    assert one.lost.low < one.lost.value < one.lost.high and one.clear
    with pytest.raises(InputError, match="one for each pair"):
        pooled(found, kinds[:2])
    with pytest.raises(InputError, match="no erasure"):
        found.only([])
    with pytest.raises(InputError, match="whole numbers"):
        dataclasses.replace(found, place=found.place + 0.5)
    with pytest.raises(InputError, match="registry of 'e00'"):
        interfered(found, dict.fromkeys(found.erased, 3))  # type: ignore[arg-type]


def test_few_resamples_are_refused() -> None:
    found = interference(View(), ERASURES, ASKED, judge=judge)
    kinds = np.full((len(found.erased), len(found.asked)), "all")
    for call in (lambda: pooled(found, kinds, draws=1), lambda: interfered(found, draws=39)):
        with pytest.raises(InputError, match="need at least 40 resamples"):
            call()
    with pytest.raises(InputError, match="need at least 40 resamples"):
        remembered_by_pictures(View(), ERASURES, ASKED, judge=judge, draws=1)


def test_saved_and_read_again_and_damage_is_told(tmp_path: Path) -> None:
    found = drawn()
    found.save(tmp_path / "m")
    assert Interference.load(tmp_path / "m").digest == found.digest
    changed = dataclasses.replace(found, seen=np.where(found.seen == 1, 0, found.seen).astype(np.int8))
    assert changed.digest != found.digest != dataclasses.replace(found, judge="other").digest
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "judge": "other"}))
    with pytest.raises(FormatError, match="another SHA-256"):
        Interference.load(tmp_path / "m")
    assert found.only(["no trees"]).kept.value.tolist() == [[1, 1, 0, 0, 1, 1]]
    for damaged in ({"place": found.place - 1}, {"place": found.place + 1}, {"seen": found.seen * 0 + 2}):
        with pytest.raises(InputError, match="outside of its list|values other than"):
            dataclasses.replace(found, **{k: v.astype(getattr(found, k).dtype) for k, v in damaged.items()})
    with pytest.raises(InputError, match="did you mean 'no cat'"):
        found.answers("no cats")


# ------------------------------------------------------------------------------------------------------ the card


def test_siblings_that_go_are_told_and_the_target_stands_first() -> None:
    found = simulated(near=0.6)
    audit = interfered(found, known_of(found), draws=200)
    assert any(line.startswith("WARNING: relation sibling") for line in audit.warnings)
    assert not any("unrelated" in line for line in audit.warnings)
    assert audit.conclusions[0].startswith("Of the pictures that showed what was to be erased, 0.0%")
    assert audit.findings[0].family == "target" and audit.tables[0].rows[0][0] == "target"
    assert audit.find("bystanders", "lost beyond chance", "after").value > 0
    titles = [figure.title for figure in audit.figures]
    assert titles == ["Erased by asked: what is kept", "Kept against likeness to what was erased", "Kept by popularity",
                      "Where lost pictures go"]  # fmt: skip
    page = audit.html()
    assert page.index("The small print") > page.index("What these numbers do not show")
    assert audit.from_dict(json.loads(audit.json())).findings == audit.findings


def test_the_same_system_twice_is_told_of_nobody() -> None:
    found = simulated(near=0.0)
    assert not [line for line in interfered(found, known_of(found), draws=200).warnings if "NOT erased" not in line]


def test_few_are_not_shown() -> None:
    found = simulated(pictures=2)
    audit = interfered(found, known_of(found), draws=50, fewest=5)
    shown = json.dumps(audit.to_dict())
    assert "colour: rare" not in json.dumps([t["rows"] for t in audit.to_dict()["tables"]])
    assert "not shown" in shown and not any(series.x for series in audit.figures[0].series)


def test_one_part_is_the_ledgers_own_audit() -> None:
    found, known = simulated(near=0.6), None
    known = known_of(found)
    name = found.erased[1]
    audit = interfered(found, known, draws=50, each=[name])
    alone = remembered(found.ledger(name, known[name]), registry=known[name], draws=50, resample="queries", listed=10)
    assert audit.parts[0].findings == alone.findings and audit.parts[0].title == name
    with pytest.raises(InputError, match="which is no erasure"):
        interfered(found, known, each=["nobody"])
    with pytest.raises(InputError, match="registry has none for"):
        interfered(found, {name: known[name]})


def test_by_one_call() -> None:
    audit = remembered_by_pictures(View(), ERASURES, ASKED, judge=judge, seeds=3, draws=50)
    assert audit.settings["pictures in an arm"] == 36 and audit.figures[0].kind == "matrix"


def test_heirs_are_named_and_strangers_are_unresolved() -> None:
    found = simulated(near=0.6)
    name = found.erased[1]
    ledger = found.ledger(name, Registry.of(found.asked))
    extra = (ledger.rows["merit"] == 0) & (ledger.rows["arm"] == ledger.arms.index("after"))
    assert extra.sum() > 4 and ledger.rows["hit"][extra].all()
    strange = dataclasses.replace(found, names=tuple(f"x{n}" for n in found.names))
    answers = strange.ledger(name).answers
    assert not (strange.ledger(name).rows["merit"] == 0).any() and answers["unresolved"].sum() > 4


def test_of_many_erasures_the_figure_shows_those_that_took_most() -> None:
    names, places = tuple(f"e{i:02d}" for i in range(30)), np.arange(30)
    seen = np.ones((32, 30), dtype=np.int8)
    seen[2 + 7, :20] = 0  # the eighth takes twenty
    zero = np.zeros(30, dtype=int)
    found = Interference(names, (), names, places, zero, zero, names, places, seen)
    figure = next(f for f in interfered(found, draws=50).figures if f.kind == "matrix")
    assert len(figure.series) == 20 and "e07" in {each.label for each in figure.series}
    assert figure.caption.startswith("Share of the pictures that showed it before and still do; the 20 of 30 erasures")


def test_the_figure_of_a_matrix(tmp_path: Path) -> None:
    found = simulated(near=0.6)
    audit = interfered(found, known_of(found), draws=50)
    svg = audit.figures[0].svg()
    assert svg.startswith("<?xml") and audit.figures[0].groups["e05"] in ("red", "green")
    alt = re.search(r'alt="(Erased by asked[^"]*)"', audit.html())
    assert alt is not None and "10 rows by 40 columns" in alt[1]
    assert spread(["a", "b"], 2).tolist() == [["a", "b"], ["a", "b"]]
