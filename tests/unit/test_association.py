"""WEAT: equal to the formula written out, between its bounds, honest where nothing is to be found."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from efface._errors import InputError
from efface.audit.vectors import association


def draw(rng: np.random.Generator, *sizes: int, d: int = 6) -> list[np.ndarray]:
    return [rng.normal(size=(n, d)) for n in sizes]


def naive(x: Any, y: Any, a: Any, b: Any) -> tuple[float, float]:
    """Effect size and exact p, as arXiv:1608.07187 has them, word by word."""

    def cos(u: np.ndarray, v: np.ndarray) -> float:
        return float(u @ v / np.sqrt((u @ u) * (v @ v)))

    scores = [float(np.mean([cos(w, one) for one in a]) - np.mean([cos(w, one) for one in b])) for w in [*x, *y]]
    n, m = len(x), len(y)
    effect = (np.mean(scores[:n]) - np.mean(scores[n:])) / np.std(scores, ddof=1)
    given = sum(scores[:n]) / n - sum(scores[n:]) / m
    at_least, ways = 0, list(combinations(range(n + m), n))
    for chosen in ways:
        rest = [i for i in range(n + m) if i not in chosen]
        at_least += sum(scores[i] for i in chosen) / n - sum(scores[i] for i in rest) / m >= given - 1e-12
    return float(effect), at_least / len(ways)


@pytest.mark.parametrize("sizes", [(4, 4, 3, 5), (2, 2, 2, 2), (3, 5, 4, 2)])
def test_is_the_formula_written_out(sizes: tuple[int, ...]) -> None:
    lists = draw(np.random.default_rng(sum(sizes)), *sizes)
    found, (effect, p) = association(*lists), naive(*lists)
    assert found.effect.value == pytest.approx(effect, rel=1e-9)
    assert found.p == pytest.approx(p) and found.exact
    assert found.effect.low <= found.effect.value <= found.effect.high


def test_swapped_lists_change_the_sign_and_lengths_nothing() -> None:
    x, y, a, b = draw(np.random.default_rng(0), 5, 5, 5, 5)
    d = association(x, y, a, b).effect.value
    assert association(y, x, a, b).effect.value == pytest.approx(-d)
    assert association(x, y, b, a).effect.value == pytest.approx(-d)
    assert association(torch.tensor(x) * 1e-200, (7 * y).tolist(), a * 1e200, b).effect.value == pytest.approx(d)


def test_what_goes_together_has_the_smallest_p_there_is() -> None:
    rng = np.random.default_rng(1)
    one, other = np.eye(6)[0], np.eye(6)[1]
    x, a = (one + 0.1 * rows for rows in draw(rng, 6, 6))
    y, b = (other + 0.1 * rows for rows in draw(rng, 6, 6))
    found = association(x, y, a, b)
    assert found.p == 1 / 924 and 1.8 < found.effect.value < 2
    assert association(x, y, a, a).effect.value == 0 and association(x, y, a, a).p == 1  # nothing to tell


def test_p_of_nothing_is_uniform_and_draws_agree_with_all_partitions() -> None:
    rng = np.random.default_rng(2)
    lists = [draw(rng, 6, 6, 4, 4) for _ in range(200)]
    p = np.array([association(*each).p for each in lists])
    assert 0.01 < (p <= 0.05).mean() < 0.1 and 0.4 < p.mean() < 0.6
    drawn = association(*lists[0], partitions=900)
    assert not drawn.exact and drawn.partitions == 900
    assert abs(drawn.p - p[0]) < 4 * np.sqrt(p[0] * (1 - p[0]) / 900) + 2 / 900


def test_the_same_seed_is_the_same() -> None:
    lists = draw(np.random.default_rng(3), 9, 9, 4, 4)
    assert association(*lists, seed=5) == association(*lists, seed=5)
    assert association(*lists, seed=5).effect.low != association(*lists, seed=6).effect.low


GOOD = np.eye(4)[:3]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (GOOD[:1], "at least 2 embeddings"),
        (GOOD[0], "expected"),
        (np.zeros((2, 4)), "row of zeros"),
        (GOOD * np.nan, "finite"),
        (np.eye(5)[:3], "one width"),
        (np.zeros((3, 0)), "row of zeros"),
        (["a", "b"], "x|a"),
        (None, "x|a"),
        (GOOD * 1j, "complex"),
    ],
    ids=str,
)
def test_refuses_what_is_no_list_of_embeddings(bad: Any, text: str) -> None:
    for given in ((bad, GOOD, GOOD, GOOD), (GOOD, GOOD, bad, GOOD)):
        with pytest.raises(InputError, match=text):
            association(*given)


@pytest.mark.parametrize("options", [{"partitions": 0}, {"level": 1.0}, {"level": "x"}, {"seed": -1}, {"seed": 1.5}])
def test_refuses_options_that_say_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        association(GOOD, GOOD, GOOD, GOOD, **options)
