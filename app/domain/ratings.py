"""How checkpoints compare: win rates and Bradley-Terry ratings, intervals that allow for raters who differ.

Wilson (1927) score interval; Bradley & Terry (1952), fitted by Newton's method. Everything is at 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.estimates import Z_95, Estimate, Verdict

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_CLUSTERS = 5
"""With fewer raters than this, how much they differ cannot be estimated, and votes count as independent."""

_NEWTON_STEPS = 50
_PRIOR_WINS = 0.5


@dataclass(frozen=True)
class WinRate:
    """Votes for a against b. `win_rate` counts ties half; `verdict` says how a stands to b.

    `more_votes` is how many more of the same kind would settle the verdict if the win rate stayed what it is;
    0 when it is settled, None at a win rate of exactly one half.
    """

    wins: int
    losses: int
    ties: int
    n: int
    win_rate: float | None
    interval: tuple[float, float] | None
    verdict: Verdict
    more_votes: int | None


def wilson_interval(successes: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion. `successes` and `n` may be fractional (ties, effective sizes).

    Raises:
        ValueError: n is not positive.
    """
    if n <= 0:
        raise ValueError("an interval needs at least one observation")
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion(successes: int, n: int) -> Estimate:
    """A share with Wilson's interval."""
    return Estimate(successes / n, wilson_interval(successes, n), n) if n else Estimate(None, None, 0)


def effective_size(scores: Sequence[float], raters: Sequence[object]) -> float:
    """How many independent win-or-lose votes carry as much information as these.

    `scores` are 1 (won), 0.5 (tie) or 0 (lost). Ties vary less than coin flips, so they raise the size; votes of one
    rater that lean the same way lower it by the design effect, the ratio of the rater-clustered variance of the mean
    to the independent one (Liang & Zeger 1986, with the G / (G - 1) correction), never below 1. Without ties and with
    fewer than `MIN_CLUSTERS` raters it is the number of votes.
    """
    n = len(scores)
    values = np.asarray(scores, dtype=np.float64)
    smoothed = (values.sum() + 1) / (n + 2)  # one win and one loss more keep the ratio defined where all votes agree
    variance = (np.square(values).sum() + 1) / (n + 2) - smoothed**2
    size = n * smoothed * (1 - smoothed) / variance
    residuals = values - values.mean()
    independent = float(np.square(residuals).sum())
    _, cluster = np.unique([str(rater) for rater in raters], return_inverse=True)
    clusters = int(cluster.max()) + 1
    if clusters < MIN_CLUSTERS or independent == 0:
        return float(size)
    sums = np.bincount(cluster, weights=residuals)
    clustered = float(np.square(sums).sum()) * clusters / (clusters - 1)
    return float(size / max(1.0, clustered / independent))


def win_rate(scores: Sequence[float], raters: Sequence[object]) -> WinRate:
    """The win rate of a over b from a's scores (1, 0.5, 0), with Wilson's interval at the effective size."""
    n = len(scores)
    wins, losses = sum(score == 1 for score in scores), sum(score == 0 for score in scores)
    if n == 0:
        return WinRate(0, 0, 0, 0, None, None, "cannot tell yet", None)
    rate = sum(scores) / n
    size = effective_size(scores, raters)
    low, high = wilson_interval(rate * size, size)
    verdict: Verdict = "better" if low > 0.5 else "worse" if high < 0.5 else "cannot tell yet"
    return WinRate(wins, losses, n - wins - losses, n, rate, (low, high), verdict, _more_votes(rate, size, n))


def _more_votes(rate: float, size: float, n: int) -> int | None:
    """Wilson's interval leaves 0.5 out exactly when |rate - 0.5| * sqrt(size) > z / 2."""
    if rate == 0.5:
        return None
    needed = math.floor((Z_95 / 2 / (rate - 0.5)) ** 2) + 1
    return max(0, math.ceil((needed - size) * n / size - 1e-9))


def bradley_terry(wins: Floats, met: NDArray[np.bool_] | None = None) -> Floats:
    """Maximum-likelihood log-strengths of the items, mean 0, for a batch of win matrices.

    `wins[..., i, j]` is how often i beat j, ties counted half to both. Half a win each way is added to every pair that
    met, so that a clean sweep stays finite (for two items this is the Haldane-Anscombe log odds); `met` says which did
    where the wins alone do not. Items that are not connected have no common scale: ask `connected` first.

    Shapes: (..., k, k) -> (..., k).
    """
    if met is None:
        met = (wins + np.swapaxes(wins, -1, -2)) > 0
    counts = wins + _PRIOR_WINS * met
    games = counts + np.swapaxes(counts, -1, -2)
    won = counts.sum(-1)
    k = wins.shape[-1]
    strengths: Floats = np.zeros(wins.shape[:-1])
    for _ in range(_NEWTON_STEPS):
        expected = 1 / (1 + np.exp(strengths[..., None, :] - strengths[..., :, None]))
        gradient = won - (games * expected).sum(-1)
        information = games * expected * (1 - expected)
        hessian = -information
        hessian[..., range(k), range(k)] += information.sum(-1)
        # the likelihood does not see a common shift; adding ones / k makes the solution the one with mean 0
        step = np.linalg.solve(hessian + 1 / k, gradient[..., None])[..., 0]
        strengths = strengths + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    centred: Floats = strengths - strengths.mean(-1, keepdims=True)
    return centred


def connected(games: Floats) -> bool:
    """Whether every item was compared with every other, directly or through others."""
    k = len(games)
    reached = np.linalg.matrix_power((games > 0) + np.eye(k, dtype=np.int64), max(k - 1, 1))
    return bool((reached > 0).all())


def rate_items(
    k: int,
    first: Sequence[int],
    second: Sequence[int],
    scores: Sequence[float],
    raters: Sequence[object],
    *,
    seed: int = 0,
) -> list[Estimate] | None:
    """Bradley-Terry log-strengths of `k` items, mean 0, with an interval from a bootstrap clustered by rater.

    Vote v says that item `first[v]` got `scores[v]` (1, 0.5 or 0) against item `second[v]`. Whole raters are drawn
    again, since votes of one rater are not independent; with fewer than `MIN_CLUSTERS` raters single votes are. The
    interval is +/- t * standard error with G - 1 degrees of freedom: percentiles of the resamples are too narrow for
    the dozen raters that are usual (90 % instead of 95 % with 15). None where the votes do not connect all items.
    """
    left, right = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    score = np.asarray(scores, dtype=np.float64)
    names, cluster = np.unique([str(rater) for rater in raters], return_inverse=True)
    if len(names) < MIN_CLUSTERS:
        cluster = np.arange(len(score))
    n_clusters = int(cluster.max()) + 1 if len(score) else 0
    tables = np.zeros((n_clusters, k, k))
    np.add.at(tables, (cluster, left, right), score)
    np.add.at(tables, (cluster, right, left), 1 - score)
    total = tables.sum(0)
    games = total + total.T
    if n_clusters < 2 or not connected(games):
        return None
    strengths = bradley_terry(total)
    weights = _bootstrap_weights(n_clusters, seed=seed)
    resampled = (weights @ tables.reshape(n_clusters, k * k)).reshape(-1, k, k)
    draws = bradley_terry(resampled, games > 0)
    half = t_95(n_clusters - 1) * draws.std(0) * math.sqrt(n_clusters / (n_clusters - 1))
    return [
        Estimate(float(rating), (float(rating - margin), float(rating + margin)), round(float(n)))
        for rating, margin, n in zip(strengths, half, games.sum(1), strict=True)
    ]


def t_95(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t, by its expansion in 1 / degrees (Abramowitz & Stegun 26.7.5).

    Good to 0.01 from 3 degrees up; spares the web process an import of scipy.
    """
    z, v = Z_95, degrees
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


def _bootstrap_weights(n: int, *, seed: int, resamples: int = 1000) -> Floats:
    """How often each of `n` clusters was drawn in each resample. Shape (resamples, n)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
