"""How a rater does: follows the others, leans to a side, contradicts themself, hurries, passes gold; and what one of
their votes should weigh. Every figure has its interval at 95 %."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import numpy as np

from app.domain import consensus
from app.domain.agreement import left_share, self_consistency
from app.domain.consensus import Ballots
from app.domain.enums import Choice
from app.domain.estimates import Z_95, Estimate, RaterHealth, Vote
from app.domain.ratings import proportion, wilson_interval

LEAST_WEIGHT = 0.05
"""No rater is silenced by statistics alone; that is what retracting is for."""

_WEIGHT_PRIOR_SD = 0.5
"""How far from 1 a rater's slope is believed to lie before their votes, where a weight is made of it."""

_GOLD_PRIOR = (9.0, 1.0)
"""Gold answers that a rater is credited with, right and wrong, where a weight is made of them."""

_LEAN_Z = 3.1
"""Of the interval that must leave one half out: of thirty raters without a lean none is named in 94 % of campaigns."""

_HURRIED = 0.4
"""A median time below this share of the other raters' is called hurried."""


def rater_health(votes: Sequence[Vote]) -> list[RaterHealth]:
    """Every rater's manners, most votes first."""
    by_rater: dict[UUID, list[Vote]] = defaultdict(list)
    tallies: dict[UUID, Counter[str]] = defaultdict(Counter)
    for vote in votes:
        by_rater[vote.rater].append(vote)
        if vote.repeat_of is None and vote.gold is None and vote.verdict is not None:
            tallies[vote.pair][vote.verdict] += 1
    slopes = agreement_slopes(votes)
    times = {rater: sorted(vote.response_ms for vote in own if vote.response_ms is not None)
             for rater, own in by_rater.items()}  # fmt: skip
    usual = _usual_speed(times)
    health = [_health(rater, own, slopes[rater], tallies, times[rater], usual) for rater, own in by_rater.items()]
    return sorted(health, key=lambda row: (-row.n, str(row.rater)))


def rater_weights(votes: Sequence[Vote]) -> dict[UUID, float]:
    """What one vote of each rater counts in the loss; see `vote_weight`."""
    by_rater: dict[UUID, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_rater[vote.rater].append(vote)
    return {rater: vote_weight(slope, gold_share(by_rater[rater])) for rater, slope in agreement_slopes(votes).items()}


def agreement_slopes(votes: Sequence[Vote]) -> dict[UUID, Estimate]:
    """`consensus.slopes` of every rater, over first showings of ordinary pairs; skips and `both_bad` say nothing."""
    raters = {rater: row for row, rater in enumerate(dict.fromkeys(vote.rater for vote in votes))}
    images: dict[UUID, int] = {}
    rows = []
    for vote in votes:
        share = vote.choice.left_share
        if share is None or vote.repeat_of is not None or vote.gold is not None or not (vote.left and vote.right):
            continue
        left, right = (images.setdefault(image, len(images)) for image in (vote.left, vote.right))
        rows.append((raters[vote.rater], left, right, share))
    table = np.array(rows, np.float64).reshape(-1, 4)
    who, left, right = table[:, :3].astype(np.int64).T
    estimates = consensus.slopes(Ballots(who, left, right, table[:, 3]), len(raters), len(images))
    return {rater: estimates[row] for rater, row in raters.items()}


def gold_share(votes: Iterable[Vote]) -> Estimate:
    """Share of gold pairs answered as expected, with the interval of the Beta posterior under Jeffreys' prior.

    A skip is no answer; a tie or `both_bad` is a wrong one.
    """
    answers = [vote.choice is vote.gold for vote in votes if vote.gold is not None and vote.choice is not Choice.SKIP]
    n, right = len(answers), sum(answers)
    if n == 0:
        return Estimate(None, None, 0)
    return Estimate(right / n, beta_interval(right + 0.5, n - right + 0.5), n)


def vote_weight(slope: Estimate, gold: Estimate) -> float:
    """Between `LEAST_WEIGHT` and 1: the slope, drawn toward 1 where it is not known well, or what gold says if less.

    A rater who flips coins on gold passes half of it, so that (2 p - 1) is the weight that gold speaks for.
    """
    by_slope = 1.0
    if slope.value is not None and slope.interval is not None:
        mean, sd = consensus.SLOPE_PRIOR
        precision = (2 * Z_95 / (slope.interval[1] - slope.interval[0])) ** 2
        own = max(0.0, precision - 1 / sd**2)  # what the votes say, without the estimate's own prior
        alone = (slope.value * precision - mean / sd**2) / own if own > 0 else 1.0
        strength = 1 / _WEIGHT_PRIOR_SD**2
        by_slope = (own * alone + strength) / (own + strength)
    by_gold = 1.0
    if gold.value is not None:
        right, wrong = _GOLD_PRIOR
        passed = (gold.value * gold.n + right) / (gold.n + right + wrong)
        by_gold = (2 * passed - 1) / (2 * right / (right + wrong) - 1)
    return min(1.0, max(LEAST_WEIGHT, min(by_slope, by_gold)))


def median_interval(sorted_values: Sequence[float]) -> Estimate:
    """The median, with the order statistics that hold it at 95 % whatever the distribution (binomial, normal limit)."""
    n = len(sorted_values)
    if n == 0:
        return Estimate(None, None, 0)
    middle = (sorted_values[(n - 1) // 2] + sorted_values[n // 2]) / 2
    reach = Z_95 * math.sqrt(n) / 2
    low, high = math.floor(n / 2 - reach) - 1, math.ceil(n / 2 + reach)
    interval = (float(sorted_values[low]), float(sorted_values[high])) if low >= 0 and high < n else None
    return Estimate(float(middle), interval, n)


def beta_interval(a: float, b: float) -> tuple[float, float]:
    """The middle 95 % of a Beta(a, b) distribution, by its density on a grid of log odds (no scipy)."""
    centre = math.log(a / b)
    spread = math.sqrt(1 / a + 1 / b)
    x = centre + np.linspace(-14 * spread, 14 * spread, 20_001)
    log_density = -a * np.logaddexp(0, -x) - b * np.logaddexp(0, x)
    density = np.exp(log_density - log_density.max())
    mass = np.cumsum(density) - density / 2
    low, high = np.interp([0.025, 0.975], mass / density.sum(), 1 / (1 + np.exp(-x)))
    return float(low), float(high)


def _health(
    rater: UUID,
    own: Sequence[Vote],
    slope: Estimate,
    tallies: Mapping[UUID, Counter[str]],
    times: Sequence[float],
    usual: float | None,
) -> RaterHealth:
    left, same, gold, speed = left_share(own), self_consistency(own), gold_share(own), median_interval(times)
    return RaterHealth(
        rater=rater,
        n=len(own),
        skips=sum(vote.choice is Choice.SKIP for vote in own),
        slope=slope,
        agreement=_agreement_with_others(own, tallies),
        left_share=left,
        self_consistency=same,
        gold=gold,
        speed_ms=speed,
        weight=vote_weight(slope, gold),
        concerns=tuple(_concerns(slope, left, same, gold, speed, usual)),
    )


def _concerns(
    slope: Estimate, left: Estimate, same: Estimate, gold: Estimate, speed: Estimate, usual: float | None
) -> Iterable[str]:
    if slope.interval is not None and slope.interval[1] < 0.6:
        yield "votes against the others" if slope.interval[1] < 0 else "hardly follows what the others prefer"
    if left.value is not None and abs(left.value - 0.5) > 0.1:
        low, high = wilson_interval(left.value * left.n, left.n, _LEAN_Z)
        if not low <= 0.5 <= high:
            yield f"leans to the {'left' if left.value > 0.5 else 'right'}"
    if same.interval is not None and same.interval[1] < 0.7:
        yield "contradicts themself on repeated pairs"
    if gold.interval is not None and gold.interval[1] < 0.8:
        yield "misses pairs whose answer is known"
    if usual is not None and speed.interval is not None and speed.interval[1] < _HURRIED * usual:
        yield "answers much faster than the others"


def _usual_speed(times: Mapping[UUID, Sequence[float]]) -> float | None:
    """The median of the raters' medians, from three raters on."""
    medians = sorted(np.median(own) for own in times.values() if own)
    return float(np.median(medians)) if len(medians) >= 3 else None


def _agreement_with_others(own: Iterable[Vote], tallies: Mapping[UUID, Counter[str]]) -> Estimate:
    """The rater's own vote is taken out of the tally first; pairs on which the others are split are left out."""
    agreed = n = 0
    for vote in own:
        if vote.repeat_of is not None or vote.gold is not None or vote.verdict is None:
            continue
        others = tallies[vote.pair] - Counter([vote.verdict])
        leaders = others.most_common(2)
        if not leaders or (len(leaders) == 2 and leaders[0][1] == leaders[1][1]):
            continue
        n += 1
        agreed += leaders[0][0] == vote.verdict
    return proportion(agreed, n)
