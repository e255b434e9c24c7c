"""What the statistics speak of, apart from how it is computed: these need no numpy, which takes a sixth of a second to
import."""

import math
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from app.domain.enums import Choice

Z_95 = 1.959963984540054
MIN_CLUSTERS = 5
"""With fewer raters than this, how much they differ cannot be estimated, and votes count as independent."""

Verdict = Literal["better", "worse", "cannot tell yet"]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval. `value` and `interval` are None where there is nothing to estimate from."""

    value: float | None
    interval: tuple[float, float] | None
    n: int


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
    left: UUID | None = None
    right: UUID | None = None
    is_random: bool = True
    """Whether the pair was drawn at random; what is said about the campaign counts these alone."""
    gold: Choice | None = None
    """The answer that is known, where the pair was shown for it."""

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
    """One rater's manners.

    `slope` is how strongly the rater follows the others' common taste (1 as raters do on the whole, 0 a coin flip; see
    `consensus.slopes`), `agreement` how often they sided with the majority of the others on the very same pair,
    `left_share` is among left and right votes, `self_consistency` over repeats, `gold` the share of gold pairs answered
    as expected, `speed_ms` the median time. `weight` is what each of their votes counts in the reward model's loss;
    `concerns` says in words what is wrong beyond doubt.
    """

    rater: UUID
    n: int
    skips: int
    slope: Estimate
    agreement: Estimate
    left_share: Estimate
    self_consistency: Estimate
    gold: Estimate
    speed_ms: Estimate
    weight: float
    concerns: tuple[str, ...]

    @property
    def median_ms(self) -> float | None:
        return self.speed_ms.value


def predictable_share(agreement: float) -> float:
    """The most that any model can predict of single votes where two votes on one pair agree this often.

    Where a share p of raters prefers one side, two votes agree with p^2 + (1 - p)^2 = a, and the best prediction is
    right with max(p, 1 - p) = (1 + sqrt(2 a - 1)) / 2, which is concave in a: by Jensen's inequality its mean over
    pairs is at most its value at the mean agreement.
    """
    return (1 + math.sqrt(max(0.0, 2 * agreement - 1))) / 2
