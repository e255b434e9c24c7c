"""How far votes can be trusted: agreement between raters, with oneself, and leaning to one side."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from app.domain.enums import Choice
from app.domain.estimates import Estimate, Vote
from app.domain.ratings import precision, proportion

_RESAMPLES = 1000
_BINS_AT_ONCE = 2_000_000


def krippendorff_alpha(counts: NDArray[np.int64], *, seed: int = 0) -> Estimate:
    """Krippendorff's alpha for nominal categories, with a bootstrap interval that draws whole units again.

    `counts[u, c]` is how many raters put unit (pair) u into category c; units with fewer than two are left out. None
    where no unit has two ratings or all ratings are the same, which leaves nothing to disagree about by chance. `n` is
    the number of units used. Krippendorff, "Content Analysis" (2004), eq. 11.
    """
    used = counts[counts.sum(1) >= 2].astype(np.float64)
    n = len(used)
    if n == 0:
        return Estimate(None, None, 0)
    ratings = used.sum(1)
    disagreements = (ratings**2 - np.square(used).sum(1)) / (ratings - 1)
    value = _alpha(disagreements.sum(keepdims=True), used.sum(0, keepdims=True))[0]
    if np.isnan(value):
        return Estimate(None, None, n)
    if n < 2:
        return Estimate(float(value), None, n)
    rng = np.random.default_rng(seed)
    draws: list[NDArray[np.float64]] = []
    rows_at_once = max(1, _BINS_AT_ONCE // n)
    for start in range(0, _RESAMPLES, rows_at_once):
        rows = min(rows_at_once, _RESAMPLES - start)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=rows).astype(np.float64)
        draws.append(_alpha(weights @ disagreements, weights @ used))
    low, high = np.nanpercentile(np.concatenate(draws), [2.5, 97.5])
    return Estimate(float(value), (float(low), float(high)), n)


def _alpha(disagreement: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - observed / expected disagreement; NaN where every rating is of one category. (r), (r, c) -> (r)."""
    n = totals.sum(-1)
    expected = (n**2 - np.square(totals).sum(-1)) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - disagreement / expected, np.nan)


def agreement(votes: Iterable[Vote], *, seed: int = 0) -> Estimate:
    """Krippendorff's alpha between raters over randomly drawn pairs.

    Skips say nothing and repeats are one rater's: neither counts.
    """
    categories = {"a": 0, "b": 1, "tie": 2, "both_bad": 3}
    tallies: dict[UUID, list[int]] = defaultdict(lambda: [0] * len(categories))
    for vote in votes:
        if vote.is_random and vote.repeat_of is None and vote.verdict is not None:
            tallies[vote.pair][categories[vote.verdict]] += 1
    return krippendorff_alpha(np.array(list(tallies.values()), dtype=np.int64).reshape(-1, len(categories)), seed=seed)


def self_consistency(votes: Sequence[Vote]) -> Estimate:
    """How often a rater who sees a pair again, sides swapped, says the same. Skipped ones are left out."""
    first = {vote.comparison_id: vote.verdict for vote in votes if vote.repeat_of is None}
    same = n = 0
    for vote in votes:
        before = first.get(vote.repeat_of) if vote.repeat_of is not None else None
        if before is not None and vote.verdict is not None:
            n += 1
            same += before == vote.verdict
    return proportion(same, n)


def left_share(votes: Iterable[Vote]) -> Estimate:
    """Share of left among left and right votes; sides are random, so an unbiased rater is at one half."""
    counts = Counter(vote.choice for vote in votes)
    return proportion(counts[Choice.LEFT], counts[Choice.LEFT] + counts[Choice.RIGHT])


def human_ceiling(votes: Iterable[Vote]) -> Estimate:
    """How often two votes on one pair that both prefer a side agree: between raters, and of one rater with themself.

    Over randomly drawn pairs; Wilson's interval at the effective size of votes clustered by pair. What it says of a
    model is `estimates.predictable_share`.
    """
    sides: dict[UUID, list[int]] = defaultdict(lambda: [0, 0])
    for vote in votes:
        if vote.is_random and vote.verdict in ("a", "b"):
            sides[vote.pair][vote.verdict == "b"] += 1
    table = np.array(list(sides.values()), dtype=np.float64).reshape(-1, 2)
    table = table[table.sum(1) > 1]
    if not len(table):
        return Estimate(None, None, 0)
    agreed = (table * (table - 1) / 2).sum(1)
    twos = table.sum(1) * (table.sum(1) - 1) / 2
    share = float(agreed.sum() / twos.sum())
    known = precision(agreed, np.zeros(len(agreed)), twos)
    return Estimate(share, known.interval(share), int(twos.sum()))
