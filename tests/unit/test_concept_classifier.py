"""CGCE's classifier, its training and calibration, and refinement along its gradient, on synthetic embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface import InputError
from efface.diffusion.text.cgce.classifier import EPS, TRAINED, ConceptClassifier
from efface.diffusion.text.cgce.config import CgceConfig
from efface.diffusion.text.cgce.refinement import direction, follow, refine
from efface.diffusion.text.cgce.training import Encoded, gathered, some_rows, train

ROWS, WIDTH = 5, 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classifier(members: int = 2, seed: int = 0) -> ConceptClassifier:
    concept = torch.randn(3, WIDTH, generator=generator(seed))
    rows = torch.randn(50, WIDTH, generator=generator(seed + 2)) * 2 + 1
    made = ConceptClassifier.drawn(concept, rows, generator(seed + 1), width=8, heads=2, members=members)
    torch.testing.assert_close(made.weights["centre"], rows.mean(0))
    noise = {
        name: made.weights[name] + 0.1 * torch.randn(made.weights[name].shape, generator=generator(seed + 3))
        for name in TRAINED
        if not name.startswith("w_")
    }
    return made.having(noise)


def pairs(n: int = 60, shift: float = 2.0, noise: float = 1.0, seed: int = 0) -> Encoded:
    """The concept is a direction that is added to every row but the first, which is the same everywhere."""
    g = generator(seed)
    safe = torch.randn(n, 1, WIDTH, generator=g) + noise * torch.randn(n, ROWS, WIDTH, generator=g)
    unsafe = safe + shift * torch.eye(WIDTH)[0]
    x = torch.cat([safe, unsafe])
    x[:, 0] = 3.0
    keep = torch.ones(2 * n, ROWS, dtype=torch.bool)
    keep[:, 0] = False
    return Encoded(x, keep, torch.arange(2 * n).view(2, n))


def thirds(n: int) -> list[range]:
    return [range(n // 5), range(n // 5, 2 * n // 5), range(2 * n // 5, n)]


def fitted(data: Encoded, seed: int = 0, **options: Any) -> Any:
    concept = torch.eye(WIDTH)[:1]
    sizes = {"width": 8, "heads": 2, "members": 2, "learning_rate": 0.01}
    return train(concept, data, thirds(data.index.shape[1]), CgceConfig(**sizes, **options), generator(seed))


def test_logits_are_those_of_torchs_attention() -> None:
    f = classifier()
    w = f.weights
    x, keep = torch.randn(4, ROWS, WIDTH, generator=generator(7)), torch.rand(4, ROWS, generator=generator(8)) > 0.4
    keep[:, 1] = True
    scaled, query = ((value - w["centre"]) / w["scale"] for value in (x, w["concept"]))
    for m in range(2):
        attention = nn.MultiheadAttention(8, 2, kdim=WIDTH, vdim=WIDTH, batch_first=True)
        state = {
            "q_proj_weight": torch.eye(8),
            "k_proj_weight": w["w_k"][m].T,
            "v_proj_weight": w["w_v"][m].T,
            "in_proj_bias": torch.cat([torch.zeros(16), w["b_v"][m]]),
            "out_proj.weight": w["w_o"][m].T,
            "out_proj.bias": w["b_o"][m],
        }
        attention.load_state_dict(state)
        q = (query @ w["w_q"][m] + w["b_q"][m]).expand(4, -1, -1)
        h, _ = attention(q, scaled, scaled, key_padding_mask=~keep)
        h = nn.functional.layer_norm(h, (8,), w["gain"][m], w["shift"][m], EPS).mean(1)
        expected = nn.functional.gelu(h @ w["w_1"][m] + w["b_1"][m]) @ w["w_2"][m] + w["b_2"][m]
        torch.testing.assert_close(f.logits(x, keep)[:, m], expected, atol=1e-5, rtol=1e-4)
    f = f.having({"platt": torch.tensor([0.5, 2.0])})
    torch.testing.assert_close(f(x, keep), 0.5 * f.logits(x, keep).mean(1) + 2.0)


def test_rows_that_do_not_count_change_nothing() -> None:
    f = classifier()
    x, keep = torch.randn(3, ROWS, WIDTH, generator=generator(1)), torch.ones(3, ROWS, dtype=torch.bool)
    keep[:, 2], keep[1, 4] = False, False
    other = x.clone()
    other[:, 2], other[1, 4] = 100.0, -100.0
    torch.testing.assert_close(f(other, keep), f(x, keep))
    torch.testing.assert_close(f(*gathered(x, keep)), f(x, keep))
    x = x.requires_grad_()
    g = torch.autograd.grad(f(x, keep).sum(), x)[0]
    assert bool((g[:, 2] == 0).all()) and bool((g[1, 4] == 0).all()) and bool((g[0, 4] != 0).any())


def test_a_random_share_of_rows() -> None:
    keep = torch.ones(500, 20, dtype=torch.bool)
    keep[:, :5] = False
    found = some_rows(keep, 0.1, generator())
    assert not found[:, :5].any() and found.sum(1).min() == 1
    assert float(found[:, 5:].float().mean()) == pytest.approx(0.1 + (1 - 0.1) ** 15 / 15, abs=0.01)
    assert some_rows(keep, 1.0, generator()) is keep


def test_a_concept_that_is_there_is_found_and_calibrated() -> None:
    _, fit = fitted(pairs(100, shift=4.0))
    assert fit.auroc > 0.95 and fit.pairs == (60, 20, 20) and 0 < fit.epochs <= 40
    assert fit.typical < -1 and fit.brier < 0.1 and fit.gap < 0.25
    _, weak = fitted(pairs(400, shift=1.5))
    assert 0.75 < weak.auroc < fit.auroc and weak.brier > fit.brier and weak.gap < 0.15


def test_what_is_not_there_is_refused_with_a_histogram() -> None:
    with pytest.raises(InputError, match="(?s)AUROC 0\\.[3456].*reads='joint'.*score from.*with .*without"):
        fitted(pairs(60, shift=0.0))


def test_a_seed_fixes_all_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    data = pairs()
    one, fit = fitted(data)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    with torch.no_grad():
        two, again = fitted(data)
    with torch.inference_mode():
        three, _ = fitted(data)
    other, _ = fitted(data, seed=1)
    assert fit == again
    for name, value in one.weights.items():
        assert torch.equal(two.weights[name], value) and torch.equal(three.weights[name], value)
    assert not torch.equal(other.weights["w_q"], one.weights["w_q"])
    assert not any(value.requires_grad for value in one.weights.values())


def test_tensors_that_do_not_go_together_are_refused() -> None:
    f, x = classifier(), torch.randn(2, ROWS, WIDTH, generator=generator())
    keep = torch.ones(2, ROWS, dtype=torch.bool)
    assert torch.equal(ConceptClassifier(f.weights, f.heads)(x, keep), f(x, keep))
    with pytest.raises(InputError, match="do not fit"):
        f.having({"w_o": torch.zeros(2, 16, 16)})
    with pytest.raises(InputError, match="do not fit"):
        ConceptClassifier(f.weights, heads=3)
    with pytest.raises(InputError, match="no tensor 'concept'"):
        ConceptClassifier({name: f.weights[name] for name in f.weights if name != "concept"}, heads=2)


def test_bad_data() -> None:
    with pytest.raises(InputError, match="there are 9 pairs"):
        fitted(pairs(9))
    data = pairs(20)
    data.x[3, 2, 1] = float("inf")
    with pytest.raises(InputError, match="not finite"):
        fitted(data)


# ------------------------------------------------------------------------------------------------------- refinement


def test_what_is_made_of_a_gradient() -> None:
    g, e = (torch.randn(3, ROWS, WIDTH, generator=generator(s)) for s in (0, 1))
    for i in range(3):
        typical = e[i].norm() / ROWS**0.5
        expected = {
            "none": g[i],
            "l2": typical * g[i] / g[i].norm(),
            "sign": typical * g[i].sign() / (ROWS * WIDTH) ** 0.5,
        }
        expected["token_l2"] = torch.stack([g[i, r] / g[i, r].norm() * e[i, r].norm() for r in range(ROWS)]) / ROWS**0.5
        for name, value in expected.items():
            step = direction(g, e, name)[i]  # type: ignore[arg-type]
            torch.testing.assert_close(step, value)
            if name != "none":
                torch.testing.assert_close(step.norm(), typical)
    for name in ("none", "l2", "token_l2", "sign"):
        assert not direction(torch.zeros_like(g), e, name).any()  # type: ignore[arg-type]


class Linear(nn.Module):
    """Logit: sum over rows that count of one column, less an offset."""

    def __init__(self, column: int, offset: float) -> None:
        super().__init__()
        self.column, self.offset = column, offset

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return (x[..., self.column] * keep).sum(1) - self.offset


def run(e: Tensor, fs: list[Any], fired: list[list[bool]], stop: float = 0.0, limit: float = 0.0, **steps: Any) -> Any:
    keep = torch.ones(e.shape[:2], dtype=torch.bool)
    keep[:, 0] = False
    config = CgceConfig(threshold=float(torch.tensor(limit).double().sigmoid()), **steps)
    return refine(e, [keep] * len(fs), fs, torch.tensor(fired), torch.tensor([stop] * len(fs)), config)


def test_each_prompt_goes_down_the_gradient_until_it_is_safe() -> None:
    e = torch.zeros(3, ROWS, 2)
    e[:, 1:, 0] = torch.tensor([1.0, 2.0, -1.0])[:, None]
    e[:, :, 1] = 1.0
    out, taken, done = run(e, [Linear(0, 0.0)], [[True]] * 3, eta=0.5, normalise="l2")
    assert taken.tolist()[2] == 0 and taken[1] > taken[0] > 0 and done.all()
    assert torch.equal(out[2], e[2]) and torch.equal(out[:, 0], e[:, 0]) and torch.equal(out[..., 1], e[..., 1])
    # by hand: each step takes eta |e| / sqrt(rows) off in all, evenly from the four rows
    for i in (0, 1):
        x, steps = e[i].clone(), 0
        while float(x[1:, 0].sum()) > 0:
            x[1:, 0] -= 0.5 * float(x.norm()) / ROWS**0.5 / 2
            steps += 1
        torch.testing.assert_close(out[i], x)
        assert taken[i] == steps
        alone = run(e[i : i + 1], [Linear(0, 0.0)], [[True]], eta=0.5, normalise="l2")
        torch.testing.assert_close(alone[0][0], out[i])


def test_several_concepts_add_their_gradients() -> None:
    e = torch.ones(1, 2, 3)
    out, taken, _ = run(e, [Linear(0, 0.0), Linear(1, 0.0)], [[True, True]], max_iter=1, normalise="none", eta=0.1)
    g = torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(out[0, 1], torch.tensor([1.0, 1.0, 1.0]) - 0.1 * torch.tensor([g, g, 0.0]))
    # one that did not fire is left between stop and limit
    out, _, done = run(e, [Linear(0, 0.0), Linear(1, 0.0)], [[True, False]], stop=-1.0, limit=2.0)
    assert float(out[0, 1, 0]) <= -1 and float(out[0, 1, 1]) == 1 and done.all()


def test_steps_run_out() -> None:
    out, taken, done = run(torch.ones(2, 2, 2), [Linear(0, -50.0)], [[True], [True]], max_iter=3)
    assert taken.tolist() == [3, 3] and done.tolist() == [False, False] and not torch.equal(out, torch.ones(2, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_half_precision_and_no_gradients(dtype: torch.dtype, mode: Any) -> None:
    f = classifier()
    with mode():
        e = torch.randn(2, ROWS, WIDTH, generator=generator()).to(dtype)
        keep = torch.ones(2, ROWS, dtype=torch.bool)
        z = f(e.float(), keep)
        stop = torch.tensor([float(z.min()) - 0.5])
        fired = torch.ones(2, 1, dtype=torch.bool)
        out, taken, done = refine(e, [keep], [f], fired, stop, CgceConfig(eta=0.3, threshold=1 - 1e-9))
        assert done.all() and (taken > 0).all() and torch.equal(out.to(dtype).float(), out)
        assert bool((f(out, keep) <= stop).all())


def test_the_straight_way_ends_where_the_classifier_is_content_or_at_its_end() -> None:
    e, to = torch.zeros(4, 2, 3), torch.zeros(4, 2, 3)
    e[:, :, 0], to[:, :, 1] = 4.0, 4.0
    to[3] = e[3]  # a way of no length

    def reads(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:  # 1 at the start, -1 at the end, however long the way
        return x[:, :, 0].mean(1) / 2 - 1

    keep, fired = torch.ones(4, 2, dtype=torch.bool), torch.tensor([[True], [True], [False], [True]])
    config = CgceConfig(eta=0.1)
    x, taken, safe = follow(e, to, [keep], [reads], fired, torch.tensor([-0.5]), config)
    share = 1 - x[:, 0, 0] / 4
    assert safe.tolist() == [True, True, True, False] and torch.equal(x[3], e[3]) and int(taken[3]) == 0
    assert 0.75 <= float(share[0]) < 0.85 and int(taken[0]) == int(taken[1]) > 1
    assert 0.5 <= float(share[2]) < 0.6  # it did not fire: as far as the limit, no farther
    torch.testing.assert_close(x[0], (1 - share[0]) * e[0] + share[0] * to[0])
    x, _, safe = follow(e, to, [keep], [lambda x, k: reads(x, k) - 0.4], fired, torch.tensor([-9.0]), config)
    assert torch.equal(x[:2], to[:2]) and safe.tolist() == [True, True, True, False]  # never content: to the end
    x, taken, safe = follow(e, to, [keep], [reads], fired, torch.tensor([-9.0]), CgceConfig(eta=0.1, max_iter=2))
    assert taken.tolist()[:2] == [2, 2] and not safe.any()
