"""Statistics of remembrance: theorems, naive references, peers, and simulations whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable, mcnemar

from efface import InputError
from efface.audit.remembrance import DCG, RBP, Flat, Registry
from efface.audit.remembrance.attention import (
    effective_number,
    exchanged,
    gain_concentration,
    gini,
    heirs,
    lift,
    parity,
    shares,
    shift,
)
from efface.audit.remembrance.bootstrap import ratio_interval, resampled
from efface.audit.remembrance.certificate import CERTIFIED, NOT_CERTIFIED, NOT_TESTABLE, certify, excess
from efface.audit.remembrance.crossed import narrowed, of_cells, products
from efface.audit.remembrance.disparity import common_odds_ratio, difference, permutation_p
from efface.audit.remembrance.effects import (
    agresti_min,
    changes,
    flip_midp,
    mcnemar_midp,
    p_values,
    power_to_see,
    shrunk,
)
from efface.audit.remembrance.exposure import ideal_exposure
from efface.audit.remembrance.multiplicity import adjusted, max_t, one_budget
from efface.audit.remembrance.panel import aligned
from efface.audit.remembrance.popularity import slope
from efface.audit.remembrance.spillover import design, isotonic
from efface.audit.remembrance.standing import ELEVATED, SUPPRESSED, stand
from efface.audit.remembrance.systems import AFTER, BEFORE
from tests.references import remembrance as naive


@given(st.lists(st.sampled_from([-2, -1, 0, 1, 2]), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_exact_p_of_whole_changes_is_that_of_all_signs(steps: list[int]) -> None:
    counts = [[sum(abs(s) == k for s in steps) for k in (1, 2)]]
    assert flip_midp(counts, [sum(steps)])[0] == pytest.approx(naive.flip_p([float(s) for s in steps]), abs=1e-12)


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_mcnemar_is_statsmodels_less_half_of_what_is_as_likely(lost: int, gained: int) -> None:
    ours = mcnemar_midp([lost], [gained])[0]
    assert ours == pytest.approx(flip_midp([[lost + gained]], [gained - lost])[0], abs=1e-10)
    if lost != gained:
        exact = mcnemar([[0, lost], [gained, 0]], exact=True).pvalue  # pyright: ignore[reportAttributeAccessIssue]
        assert ours == pytest.approx(exact - stats.binom.pmf(min(lost, gained), lost + gained, 0.5), abs=1e-12)


def test_agresti_min_covers_the_change() -> None:
    rng, n, truth = np.random.default_rng(0), 80, -0.08
    draws = rng.multinomial(n, [0.12, 0.04, 0.84], size=4000)
    centre, error = agresti_min(np.full(4000, n), draws[:, 1] - draws[:, 0], draws[:, 0] + draws[:, 1])
    covered = np.abs(centre - truth) <= 1.96 * error
    assert 0.935 < covered.mean() < 0.975


def test_power_is_that_of_the_test() -> None:
    rng, n = np.random.default_rng(1), 150
    for loss, churn in ((0.1, 0.0), (0.1, 0.1), (0.2, 0.2)):
        lost, gained, _ = rng.multinomial(n, [loss + churn / 2, churn / 2, 1 - loss - churn], size=4000).T
        seen = (mcnemar_midp(lost, gained) <= 0.05).mean()
        assert float(power_to_see(n, loss, churn, alpha=0.05)) == pytest.approx(seen, abs=0.05)


@pytest.mark.parametrize(
    ("queries", "loss", "share", "power"), [(40, 0.3, 0.2, 0.7), (100, 0.15, 0.1, 0.5), (200, 0.15, 0.1, 0.88)]
)
def test_planted_suppression_is_found_at_the_powers_told_and_false_names_are_rare(
    queries: int, loss: float, share: float, power: float
) -> None:
    rng, entities, found, false = np.random.default_rng(2), 200, [], []
    hurt = np.arange(entities) < share * entities
    everyone = Registry.of([f"e{i:05d}" for i in range(entities)])
    for _ in range(6):
        ledger = naive.simulated(
            rng, entities=entities, queries=queries, hit=0.6, shared=0.75, loss=np.where(hurt, loss, 0.0)
        )
        panel = aligned(ledger, everyone, (BEFORE, AFTER))
        standing = stand(changes(panel, BEFORE, AFTER), np.ones(entities, dtype=bool), margin=loss, min_power=0.05)
        named = np.isin(standing.status, (SUPPRESSED, ELEVATED))
        found.append((standing.status == SUPPRESSED)[hurt].mean())
        false.append((named & ~hurt).sum() / max(1, named.sum()))
    assert np.mean(found) > power - 0.05
    assert np.mean(false) < 0.06


def test_nothing_changed_and_nobody_is_named() -> None:
    rng, named = np.random.default_rng(3), 0
    everyone = Registry.of([f"e{i:05d}" for i in range(60)])
    for _ in range(100):
        ledger = naive.simulated(rng, entities=60, queries=60, hit=0.5, shared=0.5)
        found = changes(aligned(ledger, everyone, (BEFORE, AFTER)), BEFORE, AFTER)
        standing = stand(found, np.ones(60, dtype=bool), margin=0.2, min_power=0.1)
        assert np.isfinite(standing.p).mean() > 0.9
        named += bool((standing.q <= 0.05).any())
    assert named <= 5 + 4  # four standard errors would be 13


def test_who_is_testable_does_not_hang_on_who_lost() -> None:
    """Or the tests of those who are left would not hold: swapping the arms must leave them the same."""
    ledger = naive.simulated(np.random.default_rng(4), entities=50, queries=40, hit=0.3, loss=0.1, shared=0.3)
    panel = aligned(ledger, Registry.of(ledger.entities), (BEFORE, AFTER))
    everyone = np.ones(50, dtype=bool)
    one = stand(changes(panel, BEFORE, AFTER), everyone, margin=0.25)
    other = stand(changes(panel, AFTER, BEFORE), everyone, margin=0.25)
    assert np.array_equal(one.p, other.p, equal_nan=True)
    assert np.allclose(one.power, other.power)


def test_replicates_of_a_query_are_one_witness() -> None:
    """Each query asked ten times with one and the same answer is as much evidence as asked once."""
    rng = np.random.default_rng(5)
    once = {BEFORE: rng.random((30, 40, 1)) < 0.6, AFTER: rng.random((30, 40, 1)) < 0.5}
    ten = {arm: np.repeat(hits, 10, axis=2) for arm, hits in once.items()}
    found = []
    for arms in (once, ten):
        ledger = naive.crossed(arms)
        change = changes(aligned(ledger, Registry.of(ledger.entities), (BEFORE, AFTER)), BEFORE, AFTER)
        found.append((p_values(change, flips=0, seed=0), change.error))
    assert np.allclose(found[0][0], found[1][0]) and np.allclose(found[0][1], found[1][1])


def test_flips_of_grades_agree_with_the_exact_test() -> None:
    ledger = naive.simulated(np.random.default_rng(6), entities=40, queries=50, hit=0.6, loss=0.1)
    found = changes(aligned(ledger, Registry.of(ledger.entities), (BEFORE, AFTER)), BEFORE, AFTER)
    exact, drawn = (p_values(found, flips=4000, seed=0, exact=exact) for exact in (True, False))
    # Flips count what is as extreme in full, the mid-p half of it.
    assert (drawn - exact > -0.03).all() and np.abs(drawn - exact).mean() < 0.12
    assert np.corrcoef(drawn, exact)[0, 1] > 0.98


def test_shrinking_keeps_signs_and_puts_what_is_little_known_behind() -> None:
    found = shrunk([-0.4, -0.4, 0.2], [0.05, 0.2, 0.05])
    assert abs(found[0]) > abs(found[1]) and np.array_equal(np.sign(found), [-1, -1, 1])
    assert np.array_equal(shrunk([0.1, -0.1], [0.5, 0.5]), [0.0, 0.0])


def test_shrunk_changes_are_nearer_to_the_truth() -> None:
    rng = np.random.default_rng(7)
    error = rng.uniform(0.02, 0.3, 500)
    truth = rng.normal(0, 0.1, 500)
    seen = truth + error * rng.normal(size=500)
    assert ((shrunk(seen, error) - truth) ** 2).mean() < 0.6 * ((seen - truth) ** 2).mean()


def test_resampled_sums_are_the_sums_of_cells() -> None:
    rng = np.random.default_rng(8)
    matrix, members = rng.normal(size=(4, 5)), np.array([[1, 1, 0, 1], [0, 0, 1, 1]])
    seen: list[Any] = []
    found = resampled(
        {"m": matrix}, members, free=np.array([True, False]), draws=3, seed=0, each=lambda s: seen.append(s["m"])
    )
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, units, size=(units, 3)) for units in (4, 5)]
    for draw in range(3):
        e, q = (np.bincount(d[:, draw], minlength=len(d)) for d in drawn)
        assert found["m"][0, draw] == pytest.approx(naive.pigeonhole(matrix, members[0], e, q))
        assert found["m"][1, draw] == pytest.approx(naive.pigeonhole(matrix, members[1], np.ones(4), q))
    assert np.concatenate(seen, axis=1).shape == (4, 3)


def test_blocks_of_draws_and_sparse_matrices_change_nothing() -> None:
    from scipy.sparse import csr_array

    matrix = (np.random.default_rng(9).random((6, 7)) < 0.2).astype(float)
    args: Any = {"free": np.array([True]), "draws": 20, "seed": 1}
    dense, sparse = (resampled({"m": m}, np.ones((1, 6)), **args)["m"] for m in (matrix, csr_array(matrix)))
    assert np.allclose(dense, sparse)


@pytest.mark.parametrize("spreads", [(0.3, 0.3, 0.3), (0.0, 0.0, 0.5), (0.5, 0.0, 0.3)])
def test_intervals_of_classes_cover_the_truth(spreads: tuple[float, float, float]) -> None:
    """95 % is meant, whether entities differ, queries, both or nothing but single cells."""
    rng, covered, runs = np.random.default_rng(10), 0, 200
    of_entities, of_queries, of_cells = spreads
    one, free = np.ones((1, 25)), np.array([True])
    count = resampled({"n": np.ones((25, 40))}, one, free=free, draws=400, seed=0)["n"]
    for _ in range(runs):
        matrix = 0.5 + of_entities * rng.normal(size=(25, 1)) + of_queries * rng.normal(size=(1, 40))
        matrix = matrix + of_cells * rng.normal(size=(25, 40))
        found = resampled({"y": matrix}, one, free=free, draws=400, seed=0)["y"] / count
        mean = matrix.mean()
        single = ((matrix - mean) ** 2).sum() / matrix.size**2
        draws = narrowed(np.array([mean]), found, np.array([single]))[0]
        span = ratio_interval(mean, draws, 25, level=0.95, what="both")
        covered += span.low <= 0.5 <= span.high
    assert 0.915 < covered / runs <= 0.985


def test_squares_of_cells_are_those_of_the_sum_over_cells() -> None:
    rng = np.random.default_rng(11)
    entity = np.repeat([0, 2, 3], [2, 3, 1])
    cells, weights = {name: rng.normal(size=6) for name in "abc"}, {name: rng.normal(size=2) for name in "cba"}
    members = np.array([[1.0, 0, 1, 1], [1, 1, 0, 0]])
    found = of_cells(products(cells, entity, members), weights)
    for of in range(2):
        each = sum(weights[name][of] * cells[name] for name in "abc")
        assert found[of] == pytest.approx((members[of][entity] * each**2).sum())  # type: ignore[operator]


def test_few_units_and_few_resamples_do_not_make_an_interval_short() -> None:
    draws = np.random.default_rng(12).normal(size=100)
    two = ratio_interval(0.0, draws, 2, level=0.95, what="two")  # t of one degree: 12.7, and sqrt(2)
    assert two.high == pytest.approx(np.sqrt(2) * 12.706 * draws.std(), rel=1e-3)
    many = ratio_interval(0.0, draws, 10_000, level=0.95, what="many")
    assert many.high == pytest.approx(np.quantile(draws, 0.975), abs=0.01)
    strict = ratio_interval(0.0, draws, 10_000, level=0.999, what="many")
    assert strict.high > draws.max()


def test_all_families_have_one_budget() -> None:
    """If nothing is there, any claim is as rare as one level says; where all are looked into each has all of it."""
    rng, runs = np.random.default_rng(13), 4000
    smallest = rng.random((runs, 2)) / 0.05
    told = [any(s * f <= 1 for s, f in zip(each, one_budget(each), strict=True)) for each in smallest.tolist()]
    assert np.mean(told) == pytest.approx(0.05, abs=0.01)
    assert np.mean((smallest <= 1).any(axis=1)) > 0.08  # as it would be with a budget each
    assert one_budget([0.5, 0.5]) == [1, 1] and one_budget([0.5, 3.0]) == [2, 1] and one_budget([0.6, 3.0]) == [2, 1]
    assert one_budget([float("nan"), 0.9]) == [1, 1] and one_budget([float("nan")]) == [1]


def test_adjusted_p_values() -> None:
    p = np.random.default_rng(11).random(20) ** 3
    assert np.allclose(adjusted(p, "bh"), stats.false_discovery_control(p, method="bh"))
    assert np.allclose(adjusted(p, "by"), stats.false_discovery_control(p, method="by"))
    order = np.argsort(p)
    steps = np.maximum.accumulate(np.minimum(1, (20 - np.arange(20)) * p[order]))
    assert np.allclose(adjusted(p, "holm")[order], steps)


def test_max_t_of_one_normal_class_is_the_normal_quantile_and_of_many_lies_between_it_and_bonferroni() -> None:
    rng = np.random.default_rng(12)
    one = max_t(rng.normal(size=(1, 40_000)), [1.0], level=0.95, two_sided=True)
    assert one == pytest.approx(1.96, abs=0.03)
    common = rng.normal(size=(1, 40_000))
    many = 0.8 * common + 0.6 * rng.normal(size=(10, 40_000))
    assert one < max_t(many, np.ones(10), level=0.95, two_sided=True) < stats.norm.ppf(1 - 0.025 / 10)


def test_slope_is_that_of_a_logit_with_dummies_and_clustered_errors() -> None:
    rng, entities, queries = np.random.default_rng(13), 40, 6
    entity, query = (part.ravel() for part in np.indices((entities, queries)))
    x = rng.normal(size=entities)[entity]
    y = rng.random(len(x)) < 1 / (1 + np.exp(-(0.7 * x + rng.normal(size=queries)[query])))
    ours = slope(y, x, query, entity, entities=entities)
    dummies = (query[:, None] == np.arange(queries)).astype(float)
    theirs = sm.Logit(y.astype(float), np.column_stack([x, dummies])).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": entity, "use_correction": False}
    )
    assert ours is not None
    assert ours.value == pytest.approx(theirs.params[0], rel=1e-5)
    assert ours.error == pytest.approx(theirs.bse[0], rel=1e-4)


def test_no_slope_where_there_is_none_to_find() -> None:
    assert slope([1, 1], [0.0, 1.0], [0, 0], [0, 1], entities=2) is None  # always hit
    assert slope([0, 1], [1.0, 1.0], [0, 0], [0, 1], entities=2) is None  # x does not vary
    assert slope([0, 0, 1, 1], [0.0, 1.0, 2.0, 3.0], [0] * 4, [0, 1, 2, 3], entities=4) is None  # told apart


def test_odds_ratio_is_statsmodels() -> None:
    rng = np.random.default_rng(14)
    cells = rng.integers(1, 30, size=(3, 2, 2))
    theirs = StratifiedTable(list(cells.astype(float))).oddsratio_pooled
    (a, b), (c, d) = cells.transpose(1, 2, 0)
    assert float(common_odds_ratio(a, a + b, c, c + d)) == pytest.approx(theirs)
    assert float(common_odds_ratio(a, a + b, c, c + d)) == pytest.approx(
        naive.common_odds_ratio([tuple(map(float, t.ravel())) for t in cells])  # type: ignore[misc]
    )
    assert np.isnan(common_odds_ratio([0.0], [3.0], [0.0], [3.0]))


def test_an_effect_of_popularity_alone_vanishes_within_strata() -> None:
    rng = np.random.default_rng(15)
    stratum = np.repeat([0, 1, 2], 40)
    member = rng.random(120) < np.array([0.2, 0.5, 0.8])[stratum]
    change, n = np.array([0.0, -0.1, -0.3])[stratum] + 0.02 * rng.normal(size=120), np.full(120, 100)
    flat = np.zeros(120, dtype=int)
    assert difference(change, n, member, flat) < -0.08
    assert abs(difference(change, n, member, stratum)) < 0.01
    assert permutation_p(change, n, member, flat, permutations=500, seed=0) < 0.01
    assert permutation_p(change, n, member, stratum, permutations=500, seed=0) > 0.05


def test_permutation_p_of_no_difference_is_uniform() -> None:
    rng, p = np.random.default_rng(16), []
    stratum = np.repeat([0, 1], 15)
    for _ in range(200):
        change, member = rng.normal(size=30) + stratum, rng.permutation(np.repeat([True, False], 15))
        p.append(permutation_p(change, np.ones(30), member, stratum, permutations=99, seed=0))
    assert (np.array(p) <= 0.05).mean() < 0.1 and np.mean(p) == pytest.approx(0.5, abs=0.07)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_ideal_exposure_is_the_mean_over_all_orders_that_keep_merit(merit: list[int]) -> None:
    from itertools import permutations

    model = RBP(0.6)
    orders = [
        o for o in permutations(range(len(merit))) if all(merit[a] >= merit[b] for a, b in zip(o, o[1:], strict=False))
    ]
    mean = np.zeros(len(merit))
    for order in orders:
        mean[list(order)] += model.weight(np.arange(len(merit))) / len(orders)
    assert np.allclose(ideal_exposure(np.array(merit, dtype=float), model), mean)


def test_models_of_users() -> None:
    assert DCG().weight([0, 2]).tolist() == [1.0, 0.5]
    assert Flat().weight([0, 7]).tolist() == [1.0, 1.0]
    with pytest.raises(InputError, match="between 0 and 1"):
        RBP(1.0)


def test_diversity_of_equal_shares_and_of_one() -> None:
    even, one = np.full(4, 0.25), np.array([1.0, 0, 0, 0])
    assert effective_number(even) == pytest.approx(4) and effective_number(one) == pytest.approx(1)
    assert gini(even) == pytest.approx(0) and gini(one) == pytest.approx(0.75)
    x = np.random.default_rng(17).random(30)
    pairs = np.abs(x[:, None] - x[None, :]).sum() / (2 * 30**2 * x.mean())
    assert gini(x) == pytest.approx(pairs)


def test_attention_is_a_zero_sum() -> None:
    rng = np.random.default_rng(18)
    then, now = shares(rng.random(9)), shares(rng.random(9))
    assert float(shift(then, now)) == pytest.approx(np.maximum(0, now - then).sum())
    assert float(parity(then, then)) == 1.0
    assert 1 / 9 <= gain_concentration(then, now) <= 1
    assert lift(then, then, rng.random(9) + 1) == pytest.approx(0)
    assert lift(then, now, np.full(9, np.nan)) is None


def test_shift_without_an_effect_is_as_exchanged_arms_show() -> None:
    rng, p = np.random.default_rng(19), []
    for _ in range(60):
        one, other = (rng.poisson(2.0, size=(12, 40)).astype(float) for _ in range(2))
        chance = exchanged(one, other, flips=99, seed=0)["shift"]
        own = shift(shares(one.sum(axis=1)), shares(other.sum(axis=1)))
        p.append((1 + (chance >= own - 1e-12).sum()) / 100)
    assert np.mean(p) == pytest.approx(0.5, abs=0.13) and (np.array(p) <= 0.05).mean() < 0.17


def test_heirs_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(20)
    arms = {arm: rng.random((6, 25, 2)) < p for arm, p in ((BEFORE, 0.6), (AFTER, 0.5))}
    ledger = naive.crossed(arms)
    panel = aligned(ledger, Registry.of(ledger.entities, target=["e00000"]), (BEFORE, AFTER))
    gained, _, answers = heirs(panel, panel.registry.targets, BEFORE, AFTER)
    sets = [
        [set(np.flatnonzero(arms[arm][:, q, s]).tolist()) for q in range(25) for s in range(2)]
        for arm in (BEFORE, AFTER)
    ]
    assert answers == sum(0 in then - now for then, now in zip(*sets, strict=True))
    for heir in range(1, 6):
        assert gained[heir] == pytest.approx(naive.transfer(sets[0], sets[1], 0, heir))


def test_spillover_finds_what_was_planted() -> None:
    rng = np.random.default_rng(21)
    similarity, popularity = rng.random(200), np.exp(rng.normal(size=200))
    relation = rng.choice(["sibling", "unrelated"], 200).tolist()
    n = rng.integers(50, 200, 200)
    siblings = np.array(relation) == "sibling"
    change = -0.3 * similarity + 0.05 * np.log(popularity) - 0.1 * siblings + 0.01
    found = design(n, similarity, popularity, relation, np.ones(200, dtype=bool))
    assert found is not None and found.names == ("intercept", "similarity", "log popularity", "is unrelated")
    assert np.allclose(found.fit(change), [0.01 - 0.1, -0.3, 0.05, 0.1])
    x, y = isotonic(similarity, change, n)
    assert (np.diff(x) > 0).all() and (np.diff(y) <= 1e-12).all()
    assert design(n, np.full(200, np.nan), popularity, relation, np.ones(200, dtype=bool)) is None


def test_certificate_rules_out_what_it_says_as_often_as_it_says() -> None:
    rng, wrong, power, runs = np.random.default_rng(22), 0, [], 400
    errors = np.array([0.01, 0.02, 0.015])
    for _ in range(runs):
        noise = errors[:, None] * rng.normal(size=(3, 400))
        # The second class loses exactly the margin: a certificate is then wrong.
        seen = np.array([0.0, -0.06, 0.0]) + errors * rng.normal(size=3)
        edge = certify(seen, errors, noise + seen[:, None], margin=0.06)
        wrong += edge.status == CERTIFIED
        change = errors * rng.normal(size=3)
        same = certify(change, errors, noise + change[:, None], margin=0.06)
        power.append((same.status == CERTIFIED, same.power))
    assert wrong / runs < 0.05 + 0.02
    happened, told = np.mean(power, axis=0)
    assert happened == pytest.approx(told, abs=0.07)


def test_certificate_says_how_much_more_is_needed() -> None:
    draws = 0.03 * np.random.default_rng(23).normal(size=(1, 4000))
    few = certify([0.0], [0.03], draws, margin=0.05, min_power=0.9)
    assert few.status == CERTIFIED if few.smallest < 0.05 else few.status == NOT_TESTABLE
    strict = certify([0.0], [0.03], draws, margin=0.01)
    assert strict.status == NOT_TESTABLE and strict.factor is not None
    more = certify([0.0], [0.03 / strict.factor**0.5], draws / strict.factor**0.5, margin=0.01 + 1e-9)
    assert more.status == CERTIFIED
    lost = certify([-0.2], [0.01], draws / 3 - 0.2, margin=0.05)
    assert lost.status == NOT_CERTIFIED and lost.factor is None and lost.smallest > 0.2


def test_excess_over_placebos() -> None:
    assert excess(1.0, np.zeros(19)) == (1.0, 0.05)
    assert excess(0.0, np.ones(19)) == (-1.0, 1.0)
