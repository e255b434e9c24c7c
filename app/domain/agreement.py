"""How far votes can be trusted: agreement between raters, with oneself, and leaning to one side."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from app.domain.enums import Choice
from app.domain.ratings import Estimate, proportion

_RESAMPLES = 1000
_BINS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Vote:
    """One vote as the statistics see it. `pair` is the same for both ways round; `a_is_left` says which way it was."""

    comparison_id: UUID
    pair: UUID
    rater: UUID
    choice: Choice
    a_is_left: bool
    response_ms: int | None = None
    repeat_of: UUID | None = None

    @property
    def verdict(self) -> str | None:
        """The choice free of sides: a, b, tie or both_bad; None for a skip."""
        if self.choice is Choice.SKIP:
            return None
        if self.choice in (Choice.TIE, Choice.BOTH_BAD):
            return self.choice.value
        return "a" if (self.choice is Choice.LEFT) == self.a_is_left else "b"


@dataclass(frozen=True)
class RaterHealth:
    """One rater's manners. `left_share` is among left and right votes; `self_consistency` is over repeats;
    `agreement` is how often the rater sided with the majority of the others on the same pair."""

    rater: UUID
    n: int
    skips: int
    median_ms: float | None
    left_share: Estimate
    self_consistency: Estimate
    agreement: Estimate


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
    """Krippendorff's alpha between raters over pairs. Skips say nothing and repeats are one rater's: neither counts."""
    categories = {"a": 0, "b": 1, "tie": 2, "both_bad": 3}
    tallies: dict[UUID, list[int]] = defaultdict(lambda: [0] * len(categories))
    for vote in votes:
        if vote.repeat_of is None and vote.verdict is not None:
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


def rater_health(votes: Sequence[Vote]) -> list[RaterHealth]:
    """Every rater's manners, most votes first."""
    by_rater: dict[UUID, list[Vote]] = defaultdict(list)
    tallies: dict[UUID, Counter[str]] = defaultdict(Counter)
    for vote in votes:
        by_rater[vote.rater].append(vote)
        if vote.repeat_of is None and vote.verdict is not None:
            tallies[vote.pair][vote.verdict] += 1
    health = []
    for rater, own in by_rater.items():
        times = [vote.response_ms for vote in own if vote.response_ms is not None]
        health.append(
            RaterHealth(
                rater=rater,
                n=len(own),
                skips=sum(vote.choice is Choice.SKIP for vote in own),
                median_ms=float(statistics.median(times)) if times else None,
                left_share=left_share(own),
                self_consistency=self_consistency(own),
                agreement=_agreement_with_others(own, tallies),
            )
        )
    return sorted(health, key=lambda row: (-row.n, str(row.rater)))


def _agreement_with_others(own: Iterable[Vote], tallies: Mapping[UUID, Counter[str]]) -> Estimate:
    """The rater's own vote is taken out of the tally first; pairs on which the others are split are left out."""
    agreed = n = 0
    for vote in own:
        if vote.repeat_of is not None or vote.verdict is None:
            continue
        others = tallies[vote.pair] - Counter([vote.verdict])
        leaders = others.most_common(2)
        if not leaders or (len(leaders) == 2 and leaders[0][1] == leaders[1][1]):
            continue
        n += 1
        agreed += leaders[0][0] == vote.verdict
    return proportion(agreed, n)
