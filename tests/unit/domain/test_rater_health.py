"""Raters' health on simulated raters whose manners are known, and against scipy and an independent fit."""

from uuid import UUID

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import beta

from app.domain import agreement, consensus
from app.domain.consensus import Ballots
from app.domain.enums import Choice
from app.domain.estimates import Estimate, Vote
from app.domain.rater_health import (
    LEAST_WEIGHT,
    agreement_slopes,
    beta_interval,
    gold_share,
    median_interval,
    rater_health,
    rater_weights,
)
from tests.simulated_votes import GOLD_MARGIN, Manners, simulate

CAMPAIGNS = 200


def covered(interval: tuple[float, float] | None, truth: float) -> bool:
    assert interval is not None
    return interval[0] <= truth <= interval[1]


def auc(bad: list[float], good: list[float]) -> float:
    return float(np.mean([[b < g for g in good] for b in bad]))


@pytest.mark.parametrize("images", [100, 1000])
def test_coin_flippers_are_found_among_thirty_raters_at_three_thousand_votes(images: int):
    areas = []
    for seed in range(5):
        raters = [Manners(slope=0.0)] * 3 + [Manners()] * 27
        found = agreement_slopes(simulate(np.random.default_rng(seed), raters, 3000, images=images))
        values = [found[UUID(int=number + 1)].value or 0.0 for number in range(30)]
        areas.append(auc(values[:3], values[3:]))
    assert np.mean(areas) >= 0.95


def test_the_images_strengths_match_an_independent_bradley_terry_fit():
    rng = np.random.default_rng(1)
    n, votes = 12, 400
    left = rng.integers(0, n, votes)
    right = (left + 1 + rng.integers(0, n - 1, votes)) % n
    score = rng.choice([0.0, 0.5, 1.0], votes)

    def loss(s: np.ndarray) -> float:
        p = expit(s[left] - s[right])
        return float(-(score * np.log(p) + (1 - score) * np.log1p(-p)).sum() + (s @ s) / (2 * consensus.PRIOR_SD**2))

    oracle = minimize(loss, np.zeros(n), method="BFGS", options={"gtol": 1e-8}).x
    ours = consensus.strengths(Ballots(np.zeros(votes, np.int64), left, right, score), n)
    np.testing.assert_allclose(ours, oracle, atol=1e-5)


def test_a_lean_to_one_side_is_no_disagreement():
    raters = [Manners(left_bias=0.3)] + [Manners()] * 9
    slopes, shares = [], []
    for seed in range(20):
        votes = simulate(np.random.default_rng(seed), raters, 2000, images=60)
        (leaning,) = [row for row in rater_health(votes) if row.rater == UUID(int=1)]
        slopes.append(leaning.slope.value)
        shares.append(leaning.left_share.value)
        assert "leans to the left" in leaning.concerns or leaning.left_share.interval[0] < 0.6
    assert 0.4 < np.mean(slopes) < 1.1  # 30 % of the votes say nothing; the rest is as good as the others'
    assert np.mean(shares) == pytest.approx(0.65, abs=0.03)


def test_the_slope_is_not_flattered_by_the_raters_own_votes():
    """On images that only a coin-flipper and one other saw, the flipper's own votes must not be the consensus."""
    raters = [Manners(slope=0.0), Manners()]
    values = [
        agreement_slopes(simulate(np.random.default_rng(seed), raters, 400, images=30))[UUID(int=1)].value
        for seed in range(30)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(30) + 0.05


def test_nobody_to_be_held_against_is_no_slope():
    votes = simulate(np.random.default_rng(0), [Manners()], 50)
    assert agreement_slopes(votes) == {UUID(int=1): Estimate(None, None, 0)}
    assert rater_weights(votes) == {UUID(int=1): 1.0}


@pytest.mark.parametrize(("right", "wrong"), [(0, 5), (1, 0), (7, 3), (40, 2), (500, 500)])
def test_the_beta_interval_is_scipys(right: int, wrong: int):
    ours = beta_interval(right + 0.5, wrong + 0.5)
    assert ours == pytest.approx(beta.interval(0.95, right + 0.5, wrong + 0.5), abs=2e-4)


def test_gold_counts_ties_as_wrong_and_skips_not_at_all():
    def answer(choice: Choice) -> Vote:
        return Vote(UUID(int=1), UUID(int=2), UUID(int=3), choice, True, gold=Choice.LEFT, is_random=False)

    result = gold_share([answer(choice) for choice in (Choice.LEFT, Choice.RIGHT, Choice.TIE, Choice.SKIP)])
    assert (result.value, result.n) == (pytest.approx(1 / 3), 3)


def test_the_median_lies_between_its_order_statistics():
    rng = np.random.default_rng(0)
    inside = [covered(median_interval(sorted(rng.lognormal(7, 0.6, 60))).interval, np.exp(7)) for _ in range(2000)]
    assert 0.94 <= np.mean(inside) <= 0.98
    assert median_interval([1.0, 2.0, 3.0]) == Estimate(2.0, None, 3)


def test_weights_tell_careless_raters_from_careful_ones_and_do_not_judge_on_a_few_votes():
    raters = [Manners(slope=0.0)] * 3 + [Manners(slope=-1.0)] + [Manners()] * 16
    weights = rater_weights(simulate(np.random.default_rng(3), raters, 2000, images=100))
    values = [weights[UUID(int=number + 1)] for number in range(20)]
    assert max(values[:3]) < 0.4
    assert values[3] == LEAST_WEIGHT
    assert min(values[4:]) > 0.55
    few = rater_weights(simulate(np.random.default_rng(3), [Manners(slope=0.0)] * 2, 8, images=100))
    assert min(few.values()) > 0.5


def test_a_rater_who_fails_gold_weighs_little_even_where_nobody_else_saw_the_images():
    votes = simulate(np.random.default_rng(2), [Manners(slope=0.0), Manners()], 40, images=2000, gold=40)
    weights = rater_weights(votes)
    assert weights[UUID(int=1)] < 0.35
    assert weights[UUID(int=2)] > 0.85


def test_gold_is_not_part_of_what_is_said_about_the_campaign():
    ordinary = simulate(np.random.default_rng(2), [Manners()] * 4, 60, images=20, overlap=2)
    rng = np.random.default_rng(2)
    with_gold = simulate(rng, [Manners()] * 4, 60, images=20, overlap=2, gold=10)
    assert len(with_gold) == len(ordinary) + 40
    for measure in (agreement.agreement, agreement.human_ceiling):
        assert measure(with_gold) == measure(ordinary)


def test_intervals_cover_the_truth_in_two_hundred_campaigns_as_often_as_they_claim():
    """Five raters, 240 votes on pairs with two places each, repeats and gold; every interval at 95 %."""
    hits: dict[str, list[bool]] = {name: [] for name in ("slope", "left", "gold", "ceiling", "self")}
    raters = [Manners()] * 5
    truth = np.random.default_rng(0).normal(0, 2, 60)
    p = 1 / (1 + np.exp(truth[:, None] - truth[None]))[np.triu_indices(len(truth), 1)]
    agrees = float((p**2 + (1 - p) ** 2).mean())  # two votes on one random pair
    passes = 1 / (1 + np.exp(-GOLD_MARGIN))
    for seed in range(CAMPAIGNS):
        rng = np.random.default_rng(seed)
        votes = simulate(rng, raters, 240, truth=truth, overlap=2, repeats=0.15, gold=16)
        hits["ceiling"].append(covered(agreement.human_ceiling(votes).interval, agrees))
        hits["self"].append(covered(agreement.self_consistency(votes).interval, agrees))
        for row in rater_health(votes):
            hits["slope"].append(covered(row.slope.interval, 1.0))
            hits["gold"].append(covered(row.gold.interval, passes))
        leaning = simulate(rng, [Manners(left_bias=0.2)], 100)
        hits["left"].append(covered(agreement.left_share(leaning).interval, 0.6))
    shares = {name: float(np.mean(rows)) for name, rows in hits.items()}
    assert all(0.91 <= share <= 0.98 for share in shares.values()), shares
