"""Win rates and ratings against closed forms, scipy, evalica, and simulated raters whose truth is known."""

import math
from itertools import combinations

import evalica
import numpy as np
import pytest
from scipy.stats import binomtest, t

from app.domain import ratings


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (3, 10), (180, 200)])
def test_wilson_matches_scipy(successes: int, n: int):
    oracle = binomtest(successes, n).proportion_ci(method="wilson")
    assert ratings.wilson_interval(successes, n) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_votes_without_ties_and_few_raters_get_the_plain_wilson_interval():
    rate = ratings.win_rate([1, 1, 1, 0], ["ada"] * 4)
    assert (rate.wins, rate.losses, rate.ties, rate.n, rate.win_rate) == (3, 1, 0, 4, 0.75)
    assert rate.interval == pytest.approx(ratings.wilson_interval(3, 4))


def test_ties_count_half_and_narrow_the_interval():
    with_ties = ratings.win_rate([0.5] * 80 + [1] * 10 + [0] * 10, ["ada"] * 100)
    without = ratings.win_rate([1] * 50 + [0] * 50, ["ada"] * 100)
    assert with_ties.win_rate == without.win_rate == 0.5
    width = [high - low for low, high in (with_ties.interval, without.interval)]
    # a tie has no variance: 80 % ties leave a fifth of it, so the width shrinks by about sqrt(5)
    assert width[1] / width[0] == pytest.approx(math.sqrt(5), rel=0.1)


def test_raters_who_each_say_one_thing_only_count_once_each():
    won = np.array([20.0, 20, 20, 0, 0, 0])  # six raters, 20 votes each, all of a rater's the same
    known = ratings.precision(won, np.zeros(6), np.full(6, 20.0))
    assert known.size == pytest.approx(120 / (20 * 6 / 5))
    assert known.z == pytest.approx(t.ppf(0.975, 5), abs=0.01)


def test_few_raters_say_nothing_of_others():
    scores = [1.0] * 60 + [0.0] * 20
    few = ratings.win_rate(scores, [index // 20 for index in range(80)])
    more = ratings.win_rate(scores, [index // 16 for index in range(80)])
    assert (few.n_raters, few.verdict) == (4, "better")  # of these four, whose votes are independent draws
    assert (more.n_raters, more.verdict) == (5, "cannot tell yet")


def test_no_votes_tell_nothing():
    rate = ratings.win_rate([], [])
    assert rate.win_rate is None
    assert rate.verdict == "cannot tell yet"


@pytest.mark.parametrize(("won", "of", "verdict"), [(30, 40, "better"), (10, 40, "worse"), (22, 40, "cannot tell yet")])
def test_the_verdict_is_given_only_when_the_interval_leaves_one_half_out(won: int, of: int, verdict: str):
    assert ratings.win_rate([1] * won + [0] * (of - won), ["ada"] * of).verdict == verdict


def test_the_votes_said_to_be_missing_are_just_enough():
    rate = ratings.win_rate([1] * 22 + [0] * 18, ["ada"] * 40)
    assert rate.more_votes is not None
    n = 40 + rate.more_votes
    assert ratings.wilson_interval(0.55 * n, n)[0] > 0.5
    assert ratings.wilson_interval(0.55 * (n - 1), n - 1)[0] <= 0.5
    assert ratings.win_rate([1] * 40, ["ada"] * 40).more_votes == 0


def test_two_items_are_rated_by_their_log_odds():
    rating = ratings.bradley_terry(np.array([[0.0, 7.0], [3.0, 0.0]]))
    assert rating[0] - rating[1] == pytest.approx(math.log(7.5 / 3.5))
    assert rating.sum() == pytest.approx(0)


def test_a_clean_sweep_stays_finite():
    rating = ratings.bradley_terry(np.array([[0.0, 50.0], [0.0, 0.0]]))
    assert rating[0] - rating[1] == pytest.approx(math.log(50.5 / 0.5))


def test_ratings_match_evalica():
    rng = np.random.default_rng(3)
    wins = rng.integers(1, 30, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    rating = ratings.bradley_terry(wins)
    xs, ys, weights = zip(*((i, j, wins[i, j] + 0.5) for i in range(5) for j in range(5) if i != j), strict=True)
    oracle = evalica.bradley_terry(
        list(xs), list(ys), [evalica.Winner.X] * len(xs), weights=list(weights), tolerance=1e-12, limit=10_000
    ).scores
    log_scores = np.log(oracle.loc[list(range(5))].to_numpy())
    np.testing.assert_allclose(rating, log_scores - log_scores.mean(), atol=1e-6)


@pytest.mark.parametrize("degrees", [4, 9, 30, 1000])
def test_the_expansion_of_t_matches_scipy(degrees: int):
    assert ratings.t_95(degrees) == pytest.approx(t.ppf(0.975, degrees), abs=0.01)


def test_a_batch_is_rated_as_each_of_its_matrices():
    rng = np.random.default_rng(4)
    batch = rng.integers(0, 9, (3, 4, 4)) * (1 - np.eye(4))
    np.testing.assert_allclose(ratings.bradley_terry(batch), [ratings.bradley_terry(one) for one in batch], atol=1e-8)


def test_items_that_never_met_are_not_rated_on_one_scale():
    assert ratings.rate_items(4, [0, 2], [1, 3], [1.0, 1.0], ["ada", "bob"]) is None
    assert ratings.rate_items(3, [0, 1], [1, 2], [1.0, 1.0], ["ada", "bob"]) is not None
    assert ratings.rate_items(2, [], [], [], []) is None


def test_intervals_of_ratings_are_wider_when_raters_differ():
    rng = np.random.default_rng(5)
    raters = np.repeat(np.arange(10), 40)
    alike = (rng.random(400) < 0.6).astype(float)
    apart = (raters % 5 < 3).astype(float)  # six raters always say 1, four always 0
    zeros, ones = [0] * 400, [1] * 400
    widths = []
    for scores in (alike, apart):
        rated = ratings.rate_items(2, zeros, ones, scores.tolist(), raters.tolist())
        assert rated is not None
        low, high = rated[0].interval
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]


def _simulated_campaign(rng: np.random.Generator, *, share: float, spread: float, n_raters: int) -> tuple[list, list]:
    """25 votes a rater; raters differ by a Beta with mean `share`; 15 % of the votes are ties."""
    strength = np.full(n_raters, share)
    if spread:
        strength = rng.beta(share * (1 / spread - 1), (1 - share) * (1 / spread - 1), n_raters)
    raters = np.repeat(np.arange(n_raters), 25)
    scores = np.where(rng.random(len(raters)) < strength[raters], 1.0, 0.0)
    scores[rng.random(len(raters)) < 0.15] = 0.5
    return scores.tolist(), raters.tolist()


@pytest.mark.parametrize(
    ("n_raters", "share", "spread"),
    [
        (1, 0.6, 0.0),
        (12, 0.6, 0.0),
        (12, 0.85, 0.0),
        (5, 0.6, 0.1),
        (6, 0.6, 0.1),
        (8, 0.6, 0.2),
        (6, 0.7, 0.02),
        (30, 0.6, 0.1),
        (30, 0.8, 0.05),
    ],
)
def test_win_rate_intervals_cover_the_truth_as_often_as_they_say(n_raters: int, share: float, spread: float):
    rng = np.random.default_rng(6)
    truth = 0.85 * share + 0.15 * 0.5
    covered = 0
    for _ in range(1000):
        low, high = ratings.win_rate(*_simulated_campaign(rng, share=share, spread=spread, n_raters=n_raters)).interval
        covered += low <= truth <= high
    assert 0.92 <= covered / 1000 <= 0.98


def test_intervals_of_ratings_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(7)
    truth = np.array([0.8, 0.0, -0.8])
    pairs = np.array(list(combinations(range(3), 2)))
    covered = []
    for seed in range(200):
        picks = pairs[rng.integers(0, 3, 300)]
        scores = (rng.random(300) < 1 / (1 + np.exp(truth[picks[:, 1]] - truth[picks[:, 0]]))).astype(float)
        rated = ratings.rate_items(
            3, picks[:, 0].tolist(), picks[:, 1].tolist(), scores.tolist(), [i % 15 for i in range(300)], seed=seed
        )
        assert rated is not None
        covered += [r.interval[0] <= t <= r.interval[1] for r, t in zip(rated, truth, strict=True)]
    assert 0.92 <= np.mean(covered) <= 0.98
