"""Scrubs whose sequences are spread over processes: real ones, with gloo."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import efface
from efface import EffaceWarning, InputError, Scrubber
from tests.integration.test_collective import run
from tests.models import concept, tiny, tokens

IDS, LABELS = tokens()[:8], concept("llama")[:8]
PARTS = [slice(0, 6), slice(6, 8)]
OPTIONS: dict[str, Any] = {"sites": "norms", "batch_size": 2}


def scrub(rows: slice, **more: Any) -> Scrubber:
    given = OPTIONS | more
    return efface.scrub(tiny("llama"), {"input_ids": IDS[rows]}, given.pop("labels", LABELS)[rows], **given)


def told(scrubber: Scrubber) -> list[float]:
    """What it says of the labels, and of what is left at each site."""
    assert scrubber.report is not None and scrubber.left is not None
    return [scrubber.report.labelled, scrubber.report.batches, *scrubber.left.values()]


def same(a: Scrubber, b: Scrubber, atol: float) -> bool:
    pairs = zip(a.erasers.values(), b.erasers.values(), strict=True)
    return [*a.erasers] == [*b.erasers] and all(torch.allclose(x.P, y.P, atol=atol, rtol=0) for x, y in pairs)


@pytest.mark.parametrize("more", [{}, {"activations": "memory"}, {"order": "parallel"}], ids=str)
def test_processes_together_fit_what_one_fits(more: dict[str, Any], tmp_path: Path) -> None:
    """To the rounding of hidden states: six sequences here, two there; and the same bits in both."""

    def work(rank: int) -> Any:
        found = scrub(PARTS[rank], **more, group=dist.group.WORLD)
        found.save(tmp_path / f"scrubber{rank}")
        return told(found)

    answers = [answer["found"] for answer in run(2, tmp_path, work)]
    one, (first, second) = scrub(slice(0, 8), **more), (efface.load(tmp_path / f"scrubber{i}") for i in range(2))
    assert same(first, second, atol=0.0) and first == second and same(one, first, atol=1e-5)
    assert answers[0] == answers[1] == pytest.approx(told(one), abs=1e-5)


def test_a_process_whose_labels_are_all_ignored_counts_as_nothing(tmp_path: Path) -> None:
    ignored = torch.cat([LABELS[:6], torch.full_like(LABELS[6:], -100)])

    def work(rank: int) -> Any:
        scrub(PARTS[rank], labels=ignored, group=dist.group.WORLD).save(tmp_path / f"scrubber{rank}")

    run(2, tmp_path, work)
    one, (first, second) = scrub(PARTS[0]), (efface.load(tmp_path / f"scrubber{i}") for i in range(2))
    assert first == second and same(one, first, atol=1e-6)


def test_an_error_of_one_is_that_of_all_and_not_a_wait(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        labels = LABELS.float() if rank == 0 else LABELS.float().index_fill(0, torch.tensor(7), float("nan"))
        scrub(PARTS[rank], labels=labels, group=dist.group.WORLD)

    errors = [answer["error"] for answer in run(2, tmp_path, work)]
    assert errors[0].startswith("InputError: rank 1: ") and errors[0].endswith(errors[1].removeprefix("InputError: "))


def test_a_concept_that_is_absent_from_all_is_refused_by_all(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        scrub(PARTS[rank], labels=torch.zeros_like(LABELS), group=dist.group.WORLD)

    for answer in run(2, tmp_path, work):
        assert "the concept is absent from the data: all 80 labels" in answer["error"]


def test_processes_that_were_stopped_at_different_sites_go_on_at_the_same(tmp_path: Path) -> None:
    """The first has written one eraser more than the second when both are stopped."""
    from efface.scrubbing.checkpoint import ScrubCheckpoint

    def stopped(rank: int) -> Any:
        most, plain = 2 + (rank == 0), ScrubCheckpoint.save_erasers

        def save(self: ScrubCheckpoint, *args: Any) -> None:
            if self.done == most:
                raise InputError("stopped")
            plain(self, *args)

        ScrubCheckpoint.save_erasers = save  # type: ignore[method-assign]
        try:
            scrub(PARTS[rank], checkpoint=tmp_path / "kept", group=dist.group.WORLD)
        finally:
            ScrubCheckpoint.save_erasers = plain  # type: ignore[method-assign]

    def work(rank: int) -> Any:
        scrub(PARTS[rank], checkpoint=tmp_path / "kept", group=dist.group.WORLD).save(tmp_path / f"scrubber{rank}")

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert all("error" in answer for answer in run(2, tmp_path / "a", stopped, seconds=5))
    run(2, tmp_path / "b", work)
    one, (first, second) = scrub(slice(0, 8)), (efface.load(tmp_path / f"scrubber{i}") for i in range(2))
    assert first == second and same(one, first, atol=1e-5)


def spread(model: Any) -> Any:
    """Its parameters in all processes, a part in each."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh)
    return model


def test_a_model_that_is_spread_over_the_processes_too(tmp_path: Path) -> None:
    """FSDP 2: the hidden states of the whole model, and its scrubber, which goes on both."""
    sites, ids = efface.find_sites(tiny("llama"), "norms", inputs={"input_ids": IDS}), IDS[:2]

    def work(rank: int) -> Any:
        rows, model = slice(4 * rank, 4 * rank + 4), spread(tiny("llama"))
        data, given = {"input_ids": IDS[rows]}, {"batch_size": 2, "group": dist.group.WORLD}
        with pytest.raises(InputError, match="find the sites before that"):
            efface.scrub(model, data, LABELS[rows], sites="norms", **given)
        found = efface.scrub(model, data, LABELS[rows], sites=sites, **given)
        with pytest.raises(InputError, match="batches is 1 on rank 0 and 2 on rank 1: give each process as many"):
            efface.scrub(model, {"input_ids": IDS[: 2 + 2 * rank]}, LABELS[: 2 + 2 * rank], sites=sites, **given)
        found.save(tmp_path / f"scrubber{rank}")
        with found.on(model), torch.no_grad():
            return model(ids).logits

    answers = [answer["found"] for answer in run(2, tmp_path, work)]
    one, first = scrub(slice(0, 8)), efface.load(tmp_path / "scrubber0")
    assert same(one, first, atol=1e-5)
    with first.on(model := tiny("llama")), torch.no_grad():
        assert all(torch.allclose(model(ids).logits, answer, atol=1e-5) for answer in answers)


def test_a_model_whose_layers_are_split_over_the_processes(tmp_path: Path) -> None:
    """Tensor parallel: all are given the same sequences and fit the same, so that no group is named."""
    sites = efface.find_sites(tiny("llama"), "norms", inputs={"input_ids": IDS})
    plan = {"mlp.gate_proj": ColwiseParallel(), "mlp.up_proj": ColwiseParallel(), "mlp.down_proj": RowwiseParallel()}

    def work(rank: int) -> Any:
        model: Any = tiny("llama")
        for layer in model.model.layers:
            parallelize_module(layer, init_device_mesh("cpu", (2,)), plan)
        found = efface.scrub(model, {"input_ids": IDS}, LABELS, sites=sites, batch_size=2)
        found.save(tmp_path / f"scrubber{rank}")
        with found.on(model), torch.no_grad():
            return model(IDS[:2]).logits

    answers = [answer["found"] for answer in run(2, tmp_path, work)]
    one, first = scrub(slice(0, 8)), efface.load(tmp_path / "scrubber0")
    assert first == efface.load(tmp_path / "scrubber1") and same(one, first, atol=1e-5)
    with first.on(model := tiny("llama")), torch.no_grad():
        assert all(torch.allclose(model(IDS[:2]).logits, answer, atol=1e-5) for answer in answers)


def test_fsdp_1_is_refused(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, that it is old
            model = FullyShardedDataParallel(tiny("llama"), device_id=torch.device("cpu"))
        efface.scrub(model, {"input_ids": IDS}, LABELS, **OPTIONS, group=dist.group.WORLD)

    (answer,) = run(1, tmp_path, work)
    assert answer["error"].startswith("InputError: the model is wrapped by FullyShardedDataParallel (FSDP 1)")


def test_the_same_sequences_in_two_processes_are_said(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        with pytest.warns(EffaceWarning, match="ranks 0 and 1 have the same sequences, which count twice"):
            scrub(PARTS[0], group=dist.group.WORLD)

    assert all("found" in answer for answer in run(2, tmp_path, work))


def test_without_a_group_that_was_begun() -> None:
    with pytest.raises(InputError, match="torchrun"):
        scrub(PARTS[0], group=object())
