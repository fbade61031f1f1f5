"""Scrubs whose statistics stay within a budget: in passes or on disk, the same bits; what cannot be met is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import efface
from efface import InputError, Site
from efface._memory import bytes_of
from efface.core import checkpoint as checkpoints
from efface.moments.streaming import Moments
from efface.scrubbing import Plan, plan
from efface.scrubbing.planning import Need, check_disk, planned
from efface.scrubbing.statistics import Statistics
from tests.integration.test_collective import run
from tests.integration.test_scrub_resuming import Failing, Stopped
from tests.models import concept, data, tiny, tokens
from tests.scrubs import fit, model, same

PARALLEL: dict[str, Any] = {"sites": "norms", "order": "parallel"}


def planned_for(**more: Any) -> Plan:
    return plan(model("llama"), data("llama"), concept("llama"), **PARALLEL | more)


def room_for(sites: int) -> int:
    """A budget that just holds so many sites at once."""
    need = next(iter(planned_for().needs.values()))
    return sites * need.sums + need.work


@pytest.fixture(scope="module")
def whole() -> Any:
    return fit(route="parallel")


@pytest.mark.parametrize(("sites", "passes"), [(1, 5), (2, 3), (4, 2), (5, 1)])
def test_several_passes_give_the_same_bits(sites: int, passes: int, whole: Any) -> None:
    memory = room_for(sites)
    found = planned_for(memory=memory)
    assert len(found.passes) == passes and [s for group in found.passes for s in group] == list(whole.sites)
    assert max(map(len, found.passes)) == sites and found.peak <= memory and not found.on_disk
    assert "at most" in str(found) and str(passes) in str(found)
    scrubber = fit(route="parallel", memory=memory)
    same(whole, scrubber)
    assert scrubber.left == whole.left and scrubber == whole


def test_sums_on_disk_give_the_same_bits_and_one_lies_in_memory(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    at = Statistics.at

    def watched(self: Statistics, site: Site) -> Any:
        squares = [fitter.moments.s_xx for fitter in self._fitters.values()]
        held.append(sum(s.untyped_storage().nbytes() >= s.numel() * 8 for s in squares))
        return at(self, site)

    monkeypatch.setattr(Statistics, "at", watched)
    needs = planned_for().needs.values()
    memory = sum(n.sums - n.square for n in needs) + max(n.square + n.work for n in needs)
    found = planned_for(memory=memory, beyond="disk")
    assert found.on_disk and found.disk == sum(n.square for n in needs) and found.peak <= memory
    same(whole, fit(route="parallel", memory=memory, beyond="disk", scratch=tmp_path))
    assert held and set(held) == {0}
    assert not [*tmp_path.iterdir()]


def test_what_fits_is_not_put_on_disk() -> None:
    found = planned_for(memory="1 GiB", beyond="disk")
    assert not found.on_disk and len(found.passes) == 1 and found.disk == 0
    assert planned_for().memory is None and "allowed" not in str(planned_for())


def test_a_sequential_fit_has_one_site_at_a_time() -> None:
    found = planned_for(order="sequential", memory=room_for(1))
    assert [len(sites) for sites in found.passes] == [1] * 5
    with pytest.raises(InputError, match="alone take .* write memory="):
        fit(memory=room_for(1) // 2)


@pytest.mark.parametrize("beyond", ["passes", "disk"])
def test_a_fit_goes_on_with_another_budget(beyond: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    known = fit(route="parallel", data=Failing(10**9))
    budgets: list[dict[str, Any]] = [
        {"memory": room_for(2)},
        {"memory": room_for(2), "beyond": "disk"},
        {"memory": room_for(3)},
        {},
        {"memory": room_for(1), "beyond": beyond},
    ]
    for budget in budgets:
        try:
            again = fit(route="parallel", data=Failing(18), checkpoint=tmp_path / "kept", **budget)
        except Stopped:
            continue
        break
    else:
        again = fit(route="parallel", data=Failing(10**9), checkpoint=tmp_path / "kept", memory=room_for(2))
    same(known, again)
    assert not (tmp_path / "kept").exists()


def test_an_update_that_fails_leaves_sums_on_disk_as_they_were(tmp_path: Path) -> None:
    """Rows of more than one chunk, of which the last is not finite."""
    x = torch.randn(9000, 8, dtype=torch.float64)
    with Statistics(tmp_path, on_disk=True) as kept:
        kept.add(Site("a"), efface.LeaceFitter(8, 2, dtype=torch.float64).update(x[:50], (x[:50, 0] > 0)))
        before = Moments(8).update(x[:50]).scatter_xx
        for place in (Site("a"), Site("b")):
            if place not in kept:
                kept.add(place, efface.LeaceFitter(8, 2, dtype=torch.float64))
        with pytest.raises(InputError, match="NaN"), kept.at(Site("a")) as fitter:
            fitter.update(x.index_fill(0, torch.tensor(8999), torch.nan), x[:, 0] > 0)
        assert len([*tmp_path.rglob("*.bin")]) == 2
        found = kept.pop(Site("a"))
        torch.testing.assert_close(found.moments.scatter_xx, before, rtol=1e-12, atol=1e-12)
        with pytest.raises(RuntimeError):  # what stands for squares that are away cannot be written to
            kept._fitters[Site("b")].moments.s_xx.add_(1)
    assert not [*tmp_path.iterdir()]


def test_processes_share_a_plan_and_refuse_two(tmp_path: Path) -> None:
    rows = [slice(0, 6), slice(6, 8)]
    given = {**PARALLEL, "batch_size": 2}
    ids, labels = tokens()[:8], concept("llama")[:8]
    two = plan(tiny("llama"), {"input_ids": ids}, labels, **given)
    memory = 2 * two.peak  # statistics are merged beside themselves

    def work(rank: int) -> Any:
        more = {**given, "group": dist.group.WORLD}
        with pytest.raises(InputError, match="memory is .* on rank 0 and .* on rank 1: write the same"):
            plan(tiny("llama"), {"input_ids": ids[rows[rank]]}, labels[rows[rank]], memory=memory + rank, **more)
        own = {"input_ids": ids[rows[rank]]}
        asked = plan(tiny("llama"), own, labels[rows[rank]], memory=memory, **more)
        found = efface.scrub(tiny("llama"), own, labels[rows[rank]], memory=memory, **more)
        free = efface.scrub(tiny("llama"), own, labels[rows[rank]], **more)
        same(free, found)
        return [len(sites) for sites in asked.passes]

    first, second = (answer["found"] for answer in run(2, tmp_path, work))
    assert first == second and sum(first) == 5


def needs(*devices: str) -> dict[Site, Need]:
    return {Site(str(i)): Need(100, 80, 50, torch.device(d)) for i, d in enumerate(devices)}


def test_each_device_has_the_budget_for_itself() -> None:
    found = planned(needs("cuda:0", "cuda:0", "cuda:1", "cuda:1"), memory=250, beyond="passes")
    assert len(found.passes) == 1 and found.peak == 250
    found = planned(needs("cuda:0", "cuda:0", "cuda:0", "cuda:1"), memory=250, beyond="passes")
    assert [len(sites) for sites in found.passes] == [1, 3] and found.forward == 1.25  # the short one first
    found = planned(needs("cpu", "cpu", "cpu"), memory=190, beyond="disk")
    assert found.on_disk and found.disk == 240 and found.peak == 3 * 20 + 80 + 50


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({"memory": "4 potatoes"}, "memory='4 potatoes' is no size: write '4 GiB'"),
    "negative": ({"memory": -1}, "memory=-1 is no size"),
    "nothing": ({"memory": 0}, "memory=0 is no size"),
    "a bool": ({"memory": True}, "memory=True is no size"),
    "infinite": ({"memory": float("inf")}, "memory=inf is no size"),
    "tiny": ({"memory": 100}, "memory=100 bytes is too little: the statistics of .* alone take .*'orth'"),
    "tiny, on disk": ({"memory": "1 kB", "beyond": "disk"}, "is too little"),
    "beyond nothing": ({"beyond": "disk"}, "write memory='16 GiB', too"),
    "beyond": ({"memory": "1 GiB", "beyond": "disc"}, "beyond is 'disc': write one of 'passes', 'disk'"),
    "scratch": ({"memory": "1 GiB", "scratch": "/nowhere/at/all"}, "where there is no folder: make it first"),
}


@pytest.mark.parametrize(("options", "text"), REFUSED.values(), ids=REFUSED)
def test_a_budget_that_is_none_or_cannot_be_met_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        fit(route="parallel", **options)


def test_the_budget_that_is_asked_for_would_do() -> None:
    with pytest.raises(InputError) as told:
        planned_for(memory=100)
    advised = str(told.value).partition("memory='")[2].partition("'")[0]
    assert planned_for(memory=advised).peak <= bytes_of(advised)
    with pytest.raises(InputError, match="squares on disk, which leaves .* write beyond='passes', or memory="):
        planned(needs(*["cpu"] * 9), memory=160, beyond="disk")


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="take .* on disk, and .* has .* left: name another folder"):
        check_disk(2**60, tmp_path)


@pytest.mark.parametrize(
    ("size", "right"),
    [("4GiB", 2**32), (" 1.5 gb ", 1_500_000_000), ("1_000", 1000), (7, 7), (2.0e3, 2000), ("2 TiB", 2**41)],
)
def test_sizes_are_read(size: Any, right: int) -> None:
    assert bytes_of(size) == right


@pytest.mark.parametrize("size", ["", "GiB", "-4 GiB", "4 GiB of it", "1e9", [4], 0.5, float("nan"), 1j, "4 G"])
def test_what_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(InputError, match="is no size"):
        bytes_of(size)


def test_the_registry_takes_a_budget() -> None:
    known = fit(route="parallel")
    given = {**PARALLEL, "memory": room_for(2), "beyond": "passes"}
    same(known, efface.erase(model("llama"), concept("llama"), data=data("llama"), **given))


class Wide(nn.Module):
    """Sites of several widths."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 40), nn.Linear(40, 8), nn.Linear(8, 40), nn.Linear(40, 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_widths_differ_and_a_pass_takes_what_fits() -> None:
    torch.manual_seed(0)
    wide, x = Wide(), torch.randn(60, 4)
    z = (x[:, 0] > 0).long()
    given: dict[str, Any] = {"sites": "layers.*", "order": "parallel", "batch_size": 20}
    free = plan(wide, {"x": x}, z, **given)
    sizes = [need.sums for need in free.needs.values()]
    assert sizes[0] == sizes[2] > 10 * sizes[1] > sizes[3]
    most = max(need.sums + need.work for need in free.needs.values())
    tight = plan(wide, {"x": x}, z, memory=most + sizes[1], **given)
    assert [len(sites) for sites in tight.passes] == [2, 2]
    same(efface.scrub(wide, {"x": x}, z, **given), efface.scrub(wide, {"x": x}, z, memory=most + sizes[1], **given))
