"""The steps that every training takes: the same bits from wherever they go on, and none that is not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.checkpoint import Checkpoint
from efface.training.loop import DivergedError, Trainer
from efface.training.seeds import generator, generators


def trainer(average: float = 0.9, clip: float | None = 1.0) -> Trainer:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0)
    return Trainer(net, optimizer, rate=lambda step: 0.1 / (step + 1), clip=clip, average=average)


def loss_of(net: nn.Module) -> Callable[[int], Tensor]:
    def loss(step: int) -> Tensor:
        x = torch.randn(8, 3, generator=generator(0, step))
        return (net(x) - x.sum(1, keepdim=True)).square().mean()

    return loss


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_it_goes_on_to_the_same_bits_from_any_step(average: float, tmp_path: Path) -> None:
    whole = trainer(average)
    losses = list(whole.steps(loss_of(whole.module), 6))
    for stop in range(1, 6):
        first, second = trainer(average), trainer(average)
        begun = list(first.steps(loss_of(first.module), stop))
        first.write(Checkpoint(tmp_path / str(stop), {}), {"curve": begun}, extra=torch.arange(3))
        position, tensors = second.resume(Checkpoint(tmp_path / str(stop), {}))
        assert second.step == stop and tensors["extra"].tolist() == [0, 1, 2]
        assert position["curve"] + list(second.steps(loss_of(second.module), 6)) == losses
        assert same(second.tensors(), whole.tensors())


def test_the_average_is_that_of_its_formula() -> None:
    run = trainer(average=0.3)
    expected = {k: v.clone() for k, v in run.module.state_dict().items()}
    for step, _ in enumerate(run.steps(loss_of(run.module), 8)):
        decay = min(0.3, (step + 1) / (step + 10))
        for name, value in run.module.state_dict().items():
            kept = expected[name]
            expected[name] = decay * kept + (1 - decay) * value if kept.is_floating_point() else value.clone()
    run.take_average()
    for name, value in run.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(bad: float) -> None:
    run = trainer()
    list(run.steps(loss_of(run.module), 2))
    before = {k: v.clone() for k, v in run.tensors().items()}
    with pytest.raises(DivergedError, match="the loss of the training is not finite: write a smaller learning rate"):
        run.descend(loss_of(run.module)(2) * bad)
    # batch normalisation saw the batch when the loss was formed
    assert same(
        {k: v for k, v in before.items() if "running" not in k and "batches" not in k},
        {k: v for k, v in run.tensors().items() if "running" not in k and "batches" not in k},
    )
    assert run.step == 2


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    run = trainer()
    weight = next(run.module.parameters())
    before = weight.detach().clone()
    with pytest.raises(DivergedError, match="the gradient of"):
        run.descend((weight - weight.detach()).abs().sum().sqrt())  # 0, of infinite slope
    assert torch.equal(weight, before)


def test_a_divergence_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run, saved = trainer(), Checkpoint(tmp_path, {})
    list(run.steps(loss_of(run.module), 2))
    run.write(saved, {})
    with pytest.raises(DivergedError):
        list(run.steps(lambda step: loss_of(run.module)(step) * (float("nan") if step == 4 else 1.0), 9))
    again = trainer()
    again.resume(Checkpoint(tmp_path, {}))
    assert again.step == 2


def test_streams_depend_on_the_seed_and_on_what_they_are_for_alone() -> None:
    first = [torch.rand(3, generator=g) for g in generators(5, range(4), 2)]
    assert torch.equal(torch.rand(3, generator=generator(5, 2, 3)), first[3])
    assert len({tuple(x.tolist()) for x in [*first, torch.rand(3, generator=generator(6, 2, 3))]}) == 5
    with pytest.raises(InputError, match="seed=-1"):
        generator(-1)
