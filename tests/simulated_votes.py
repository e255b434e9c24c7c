"""Votes of raters whose taste, errors and manners are known, made without a database."""

from dataclasses import dataclass
from uuid import UUID

import numpy as np

from app.domain.enums import Choice
from app.domain.estimates import Vote

GOLD_MARGIN = 2.0
"""Log odds of the better image of a gold pair."""


@dataclass(frozen=True)
class Manners:
    """How one rater answers. `slope` multiplies the truth's log odds: 1 as the truth has it, 0 a coin flip."""

    slope: float = 1.0
    left_bias: float = 0.0
    """Share of pairs on which the left one is chosen without looking."""


def simulate(
    rng: np.random.Generator,
    raters: list[Manners],
    votes: int,
    *,
    images: int = 300,
    spread: float = 2.0,
    truth: np.ndarray | None = None,
    overlap: int = 1,
    repeats: float = 0.0,
    gold: int = 0,
) -> list[Vote]:
    """`votes` votes on random pairs of images, dealt to the raters in turn.

    The images' log-strengths are `truth`, or N(0, spread^2). `overlap` raters judge each pair; a share `repeats` of the
    votes comes back to its rater with sides swapped, and every rater judges `gold` pairs that are `GOLD_MARGIN` apart.
    """
    truth = rng.normal(0, spread, images) if truth is None else truth
    images = len(truth)
    made: list[Vote] = []

    def vote(rater: int, left: int, right: int, margin: float, **more: object) -> Vote:
        manners = raters[rater]
        says_left = rng.random() < manners.left_bias or rng.random() < 1 / (1 + np.exp(-manners.slope * margin))
        return Vote(
            comparison_id=UUID(int=int(rng.integers(2**62))),
            rater=UUID(int=rater + 1),
            choice=Choice.LEFT if says_left else Choice.RIGHT,
            a_is_left=left < right,
            left=UUID(int=left + 1),
            right=UUID(int=right + 1),
            **more,  # type: ignore[arg-type]
        )

    turn = 0
    for number in range(-(-votes // overlap)):
        first = int(rng.integers(images))
        second = (first + 1 + int(rng.integers(images - 1))) % images
        for _ in range(overlap):
            left, right = (first, second) if rng.random() < 0.5 else (second, first)
            given = vote(turn % len(raters), left, right, truth[left] - truth[right], pair=UUID(int=number + 1))
            made.append(given)
            if rng.random() < repeats:
                again = truth[right] - truth[left]
                made.append(
                    vote(turn % len(raters), right, left, again, pair=given.pair, repeat_of=given.comparison_id)
                )
            turn += 1
    for rater in range(len(raters)):
        for number in range(gold):
            left_is_better = rng.random() < 0.5
            made.append(
                vote(
                    rater, images + 2 * number + left_is_better, images + 2 * number + (not left_is_better),
                    GOLD_MARGIN if left_is_better else -GOLD_MARGIN, pair=UUID(int=10**6 + number), is_random=False,
                    gold=Choice.LEFT if left_is_better else Choice.RIGHT,
                )
            )  # fmt: skip
    return made
