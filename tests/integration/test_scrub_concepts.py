"""Several concepts in one scrub: each scrubber is that of a scrub by itself, from one pass and one covariance."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import efface
from efface import InputError, Scrubber
from efface.scrubbing import many, plan
from efface.scrubbing.many import SharedFit
from efface.scrubbing.planning import Need
from tests.integration.test_collective import run
from tests.models import concept, data, padding, tiny, tokens
from tests.scrubs import interrupting, model, same

IDS = tokens()
KIND = concept("llama")
"""Three classes, one a token."""
SIZE = (IDS.double() / 64 + torch.rand(IDS.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)) / 2
LONG = (IDS.sum(1) > IDS.sum(1).double().median()).long()
"""Two classes, one a sequence."""
CONCEPTS: dict[str, Any] = {"kind": KIND, "size": SIZE, "long": LONG}
OPTIONS: dict[str, Any] = {"sites": "norms", "order": "parallel"}


def scrub(concepts: Any = None, **more: Any) -> Any:
    given: dict[str, Any] = {"data": data("llama"), **OPTIONS} | more
    found = CONCEPTS if concepts is None else concepts
    return efface.scrub(given.pop("model", None) or model("llama"), given.pop("data"), concepts=found, **given)


def alone(labels: Any, **more: Any) -> Scrubber:
    given: dict[str, Any] = {"data": data("llama"), **OPTIONS} | more
    return efface.scrub(model("llama"), given.pop("data"), labels, **given)


def alike(found: Scrubber, right: Scrubber, tolerance: float) -> None:
    same(right, found, tolerance)
    assert found.left is not None and right.left is not None
    assert [*found.left.values()] == pytest.approx([*right.left.values()], abs=max(tolerance, 1e-6))
    assert found.report == right.report and found.config == right.config and found.fingerprint == right.fingerprint
    told, known = ({k: v for k, v in each.provenance.items() if k != "date"} for each in (found, right))
    assert {k: told[k] for k in ("model", "batches", "call")} == {k: known[k] for k in ("model", "batches", "call")}


@pytest.fixture(scope="module")
def found() -> Any:
    return scrub()


@pytest.mark.parametrize("name", CONCEPTS)
def test_each_scrubber_is_that_of_a_scrub_by_itself(name: str, found: dict[str, Scrubber]) -> None:
    assert [*found] == [*CONCEPTS]
    alike(found[name], alone(CONCEPTS[name]), 1e-6)


@pytest.mark.parametrize("method", ["orth", "mean-difference"])
def test_of_other_methods_too(method: str) -> None:
    concepts = {name: CONCEPTS[name] for name in ("kind", "long")}
    for name, each in scrub(concepts, method=method).items():
        alike(each, alone(concepts[name], method=method), 1e-6)


def test_one_covariance_is_kept_for_labels_of_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[SharedFit] = []
    shared_fit = many.shared_fit
    import efface.scrubbing.fitting as fitting

    monkeypatch.setattr(fitting, "shared_fit", lambda *a: (fits.append(shared_fit(*a)), fits[-1])[1])
    some = torch.where(IDS % 5 == 0, -100, KIND)
    concepts = {**CONCEPTS, "some": some, "others": torch.where(IDS % 5 == 0, -100, IDS % 2)}
    found = scrub(concepts, measure=False)
    assert fits[0].groups == [["kind", "size", "long"], ["some", "others"]]
    assert all(each.left is None and each.summary()[0]["residual"] is None for each in found.values())
    same(alone(some), found["some"], 1e-6)
    need, alone_need = (
        next(iter(each.needs.values()))
        for each in (
            plan(model("llama"), data("llama"), concepts=concepts, **OPTIONS),
            plan(model("llama"), data("llama"), KIND, **OPTIONS),
        )
    )
    assert isinstance(need, Need) and need.square == 2 * alone_need.square


def test_the_model_is_run_once_for_all_and_once_to_measure_each() -> None:
    def passes(fit: Any) -> int:
        count = [0]
        hook = model("llama").model.norm.register_forward_pre_hook(lambda *_: count.__setitem__(0, count[0] + 1))
        try:
            fit()
        finally:
            hook.remove()
        return count[0]

    batches = 3  # of 8
    before = passes(lambda: scrub(measure=False)) - batches
    assert passes(scrub) == before + batches + 3 * batches
    assert passes(lambda: alone(KIND)) == before + 2 * batches


class Reading:
    """Batches with columns of labels, that count how often they are read."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.reads += 1
        for i in range(0, len(IDS), 8):
            part = slice(i, i + 8)
            given = {"input_ids": IDS[part], "attention_mask": padding()[part]}
            yield {**given, "kind": KIND[part], "long": ["yes" if n else "no" for n in LONG[part]]}


def test_labels_are_columns_or_functions_and_batches_are_read_once(found: dict[str, Scrubber]) -> None:
    columns = {**data("llama"), "kind": KIND, "long": ["yes" if n else "no" for n in LONG]}
    named = scrub(["kind", "long"], data=columns)
    same(found["kind"], named["kind"], 1e-6)
    assert named["long"].report.classes == ("no", "yes")
    same(alone(LONG), named["long"], 1e-6)

    class Plain(Reading):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield from ({k: v for k, v in batch.items() if k != "long"} for batch in super().__iter__())

    plain = Plain()
    some = scrub({"kind": "kind", "size": lambda batch: batch["input_ids"] % 2}, data=plain, measure=False)
    looks = plain.reads
    same(found["kind"], some["kind"], 1e-6)
    again = Plain()
    six = {str(i): lambda batch, i=i: batch["input_ids"] % (2 + i) for i in range(5)} | {"kind": "kind"}
    scrub(six, data=again, measure=False)
    assert again.reads - 6 == looks - 2  # each looks at the first batch when it is taken, and no more


def test_a_budget_gives_the_same_bits(found: dict[str, Scrubber], tmp_path: Path) -> None:
    need = next(iter(plan(model("llama"), data("llama"), concepts=CONCEPTS, **OPTIONS).needs.values()))
    memory = 2 * need.sums + need.work
    told = plan(model("llama"), data("llama"), concepts=CONCEPTS, memory=memory, **OPTIONS)
    assert len(told.passes) == 3
    for more in ({"memory": memory}, {"memory": memory, "beyond": "disk", "scratch": tmp_path}):
        for name, each in scrub(measure=False, **more).items():
            same(found[name], each)
    assert not [*tmp_path.iterdir()]


def test_processes_together_fit_what_one_fits(tmp_path: Path) -> None:
    rows = [slice(0, 6), slice(6, 8)]

    def work(rank: int) -> Any:
        mine, own = rows[rank], {name: z[rows[rank]] for name, z in CONCEPTS.items()}
        given = {**OPTIONS, "group": dist.group.WORLD, "batch_size": 2}
        for name, each in efface.scrub(tiny("llama"), {"input_ids": IDS[mine]}, concepts=own, **given).items():
            each.save(tmp_path / f"{name}-{rank}")

    run(2, tmp_path, work)
    one = scrub({name: z[:8] for name, z in CONCEPTS.items()}, data={"input_ids": IDS[:8]}, batch_size=2)
    for name, each in one.items():
        first, second = (efface.load(tmp_path / f"{name}-{rank}") for rank in range(2))
        assert first == second
        same(each, first, 1e-4)
        assert [*first.left.values()] == pytest.approx([*each.left.values()], abs=1e-5)


def test_they_are_put_on_one_at_a_time_and_joined_by_a_fit(found: dict[str, Scrubber]) -> None:
    own = model("llama")
    with found["kind"].on(own), pytest.raises(InputError, match="was not fitted with it on.*join_concepts"):
        found["size"].on(own)
    with found["kind"].on(own), pytest.raises(InputError, match="is on the model.*take it off first"):
        scrub()


def test_an_interrupt_leaves_the_model_as_it_was() -> None:
    own = tiny("llama")
    handle = interrupting(own.get_submodule("model.layers.1.self_attn.o_proj"), 3)
    with pytest.raises(KeyboardInterrupt):
        scrub(model=own)
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not [m for m in own.modules() if m._forward_hooks or m._forward_pre_hooks]


def changed(value: Any, where: Tensor, labels: Tensor = KIND) -> Tensor:
    return torch.where(where, value, labels)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "sequential": (CONCEPTS, {"order": "sequential"}, "share no statistics: write order='parallel', or a scrub for"),
    "none": ({}, {}, "no concepts were given"),
    "an empty list": ([], {}, "no concepts were given"),
    "no name": ({"": KIND}, {}, "a concept is called ''"),
    "twice": (["kind", "kind"], {}, "names one twice"),
    "labels without names": ([KIND, LONG], {}, r"write \{'name': labels, ...\}"),
    "labels alone": (KIND, {}, r"write \{'name': labels, ...\}"),
    "both": (CONCEPTS, {"concept": KIND}, "concept and concepts are both given"),
    "no column": (["age"], {}, "'age': data has no column 'age'"),
    "constant": ({**CONCEPTS, "flat": torch.ones_like(KIND)}, {}, "'flat': the concept is absent from the data"),
    "other lengths": ({**CONCEPTS, "few": KIND[:5]}, {}, "'few': concept has labels for 5 sequences"),
    "too many": ({**CONCEPTS, "more": torch.cat([KIND, KIND])}, {}, "'more': concept has labels for 48 sequences"),
    "all ignored": ({**CONCEPTS, "off": torch.full_like(KIND, -100)}, {}, "'off': every label is ignore_index"),
    "missing": (
        {**CONCEPTS, "gap": SIZE.index_fill(0, torch.tensor(3), torch.nan)},
        {},
        r"'gap': concept \(batch 0\) is missing",
    ),
    "method": (CONCEPTS, {"method": "oracle"}, "needs the labels when it is applied"),
    "checkpoint": (CONCEPTS, {"checkpoint": "somewhere"}, "keeps no checkpoint: leave out checkpoint="),
    "budget": (CONCEPTS, {"memory": 10}, "is too little"),
}


@pytest.mark.parametrize(("concepts", "options", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_suit_is_refused(concepts: Any, options: dict[str, Any], text: str) -> None:
    given = {"data": data("llama"), **OPTIONS, **options}
    with pytest.raises(InputError, match=text):
        efface.scrub(model("llama"), given.pop("data"), given.pop("concept", None), concepts=concepts, **given)


def test_concepts_in_place_of_one_and_beside_it_are_refused() -> None:
    with pytest.raises(InputError, match=r"concept is a mapping of 'kind', 'size', 'long'.*concepts=\{...\}"):
        alone(CONCEPTS)
    with pytest.raises(InputError, match="both given"):
        plan(model("llama"), data("llama"), KIND, concepts=CONCEPTS, **OPTIONS)


def test_a_kind_for_all() -> None:
    found = scrub({"kind": KIND, "ids": IDS}, kind="continuous", measure=False)
    assert {each.report.width for each in found.values()} == {1}
    same(alone(IDS, kind="continuous"), found["ids"], 1e-6)
