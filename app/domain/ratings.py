"""How checkpoints compare: win rates and Bradley-Terry ratings, intervals that allow for raters who differ.

Wilson (1927) score interval; Bradley & Terry (1952), fitted by Newton's method. Everything is at 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.estimates import MIN_CLUSTERS, Z_95, Estimate, Verdict

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NEWTON_STEPS = 50
_PRIOR_WINS = 0.5


@dataclass(frozen=True)
class WinRate:
    """Votes for a against b. `win_rate` counts ties half; `verdict` says how a stands to b.

    With fewer than `MIN_CLUSTERS` raters, interval and verdict speak of these `n_raters` alone: how others would vote
    cannot be told from so few. `more_votes` is how many more of the same kind would settle the verdict if the win rate
    stayed what it is; 0 when it is settled, None at a win rate of exactly one half.
    """

    wins: int
    losses: int
    ties: int
    n: int
    win_rate: float | None
    interval: tuple[float, float] | None
    verdict: Verdict
    more_votes: int | None
    n_raters: int


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


@dataclass(frozen=True)
class Precision:
    """How well a mean vote is known: `size` independent win-or-lose votes, and the quantile that an interval takes."""

    size: float
    z: float

    def interval(self, share: float) -> tuple[float, float]:
        return wilson_interval(share * self.size, self.size, self.z)


def precision(wins: Floats, ties: Floats, n: Floats) -> Precision:
    """Of the mean vote (1 won, 0.5 tie, 0 lost), where `wins[g]` and `ties[g]` of `n[g]` votes are of cluster g.

    Ties vary less than coin flips, so they raise the size. Votes of one cluster that lean the same way lower it by the
    design effect, the ratio of the clustered variance of the mean to the independent one (Liang & Zeger 1986, with the
    G / (G - 1) correction), and the interval takes Student's t with G - 1 degrees of freedom, since that variance is
    estimated from G clusters. Where this interval is narrower than that of independent votes, which only chance can
    make it, and with fewer than `MIN_CLUSTERS` clusters, votes count as independent.
    """
    total = float(n.sum())
    points, squares = float((wins + ties / 2).sum()), float((wins + ties / 4).sum())
    smoothed = (points + 1) / (total + 2)  # one win and one loss more keep the ratio defined where all votes agree
    size = total * smoothed * (1 - smoothed) / ((squares + 1) / (total + 2) - smoothed**2)
    mean, clusters = points / total, len(n)
    independent = squares - total * mean**2
    if clusters < MIN_CLUSTERS or independent <= 1e-12 * total:
        return Precision(size, Z_95)
    residuals = wins + ties / 2 - n * mean
    effect = float(np.square(residuals).sum()) * clusters / (clusters - 1) / independent
    t = t_95(clusters - 1)
    return Precision(size / effect, t) if t**2 * effect > Z_95**2 else Precision(size, Z_95)


def win_rate(scores: Sequence[float], raters: Sequence[object]) -> WinRate:
    """The win rate of a over b from a's scores (1, 0.5, 0), with Wilson's interval at the precision of its raters."""
    n = len(scores)
    if n == 0:
        return WinRate(0, 0, 0, 0, None, None, "cannot tell yet", None, 0)
    values = np.asarray(scores, dtype=np.float64)
    names, cluster = np.unique([str(rater) for rater in raters], return_inverse=True)
    won, tied = (np.bincount(cluster, weights=values == value).astype(np.float64) for value in (1, 0.5))
    known = precision(won, tied, np.bincount(cluster).astype(np.float64))
    wins, ties = int(won.sum()), int(tied.sum())
    rate = float(values.mean())
    low, high = known.interval(rate)
    verdict: Verdict = "better" if low > 0.5 else "worse" if high < 0.5 else "cannot tell yet"
    return WinRate(
        wins, n - wins - ties, ties, n, rate, (low, high), verdict, _more_votes(rate, known, n), len(names)
    )  # fmt: skip


def _more_votes(rate: float, known: Precision, n: int) -> int | None:
    """Wilson's interval leaves 0.5 out exactly when |rate - 0.5| * sqrt(size) > z / 2."""
    if rate == 0.5:
        return None
    needed = math.floor((known.z / 2 / (rate - 0.5)) ** 2) + 1
    return max(0, math.ceil((needed - known.size) * n / known.size - 1e-9))


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
    if not len(first):
        return None
    names, cluster = np.unique([str(rater) for rater in raters], return_inverse=True)
    votes = np.stack([np.asarray(first), np.asarray(second), np.asarray(scores, dtype=np.float64), cluster], axis=1)
    if len(names) < MIN_CLUSTERS:
        votes[:, 3] = 0  # votes of one kind are alike: how often each kind is drawn again is all that matters
    kinds, counts = np.unique(votes, axis=0, return_counts=True)
    left, right, who = kinds[:, [0, 1, 3]].astype(np.int64).T
    if len(names) < MIN_CLUSTERS:
        n_clusters, who = len(votes), np.arange(len(kinds))
        weights = _bootstrap_weights(counts / len(votes), n=len(votes), seed=seed) / counts
    else:
        n_clusters = len(names)
        weights = _bootstrap_weights(np.full(n_clusters, 1 / n_clusters), n=n_clusters, seed=seed)
    tables = np.zeros((weights.shape[1], k, k))
    np.add.at(tables, (who, left, right), counts * kinds[:, 2])
    np.add.at(tables, (who, right, left), counts * (1 - kinds[:, 2]))
    total = tables.sum(0)
    games = total + total.T
    if n_clusters < 2 or not connected(games):
        return None
    strengths = bradley_terry(total)
    resampled = (weights @ tables.reshape(len(tables), k * k)).reshape(-1, k, k)
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


def _bootstrap_weights(shares: Floats, *, n: int, seed: int, resamples: int = 1000) -> Floats:
    """How often each thing was among `n` drawn again with these shares. (things) -> (resamples, things)."""
    return np.random.default_rng(seed).multinomial(n, shares, size=resamples).astype(np.float64)
