"""Which pair a rater sees next, and how often: the rules, with the random generator passed in and no I/O."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar
from uuid import UUID

T = TypeVar("T")

MAX_OPEN_LEASES = 20
"""Pairs that one rater may hold in one campaign at the same time."""

RANDOM_SHARE = 0.2
"""Share of pairs that are drawn uniformly under every strategy; measurements use these alone."""

REPEAT_SHARE = 0.05
"""Chance that the next pair is one that this rater has judged before, with sides swapped."""

REPEATS_BEGIN_AFTER = 20
"""Votes that a rater has given in a campaign before the first repeat."""

REPEAT_DISTANCE = 10
"""A repeat is never one of the rater's last votes, which memory rather than taste would answer."""

REPEAT_WINDOW = 200
"""A repeat is one of as many votes before those, so that the next pair costs the same after 100 votes and 100,000."""

GOLD_SHARE = 0.05
"""Chance that the next pair is one whose answer is known, while there are such that the rater has not seen."""

UNCERTAINTY_CANDIDATES = 16
"""Random pairs of which the uncertainty strategy shows the one whose answer would teach the reward model most."""


def canonical(first: UUID, second: UUID) -> tuple[UUID, UUID]:
    """The two ids in the order in which a pair is stored, whichever way round they were drawn."""
    return (first, second) if first < second else (second, first)


def pair_count(n: int) -> int:
    """Unordered pairs of `n` things."""
    return n * (n - 1) // 2


def draw_distinct(n: int, rng: Random) -> tuple[int, int]:
    """Two different numbers below `n`, every unordered pair equally likely; constant time.

    Raises:
        ValueError: fewer than two things make no pair.
    """
    if n < 2:
        raise ValueError(f"a pair needs two things, there are {n}")
    first = rng.randrange(n)
    second = rng.randrange(n - 1)
    return first, second + (second >= first)


def locate(position: int, sizes: Sequence[int]) -> tuple[int, int]:
    """The (group, offset) of a position in groups of these sizes laid end to end."""
    for group, size in enumerate(sizes):
        if position < size:
            return group, position
        position -= size
    raise IndexError("the position lies beyond the last group")


def shuffled_sides(pair: tuple[T, T], rng: Random) -> tuple[T, T]:
    """(left, right): each of the two is on the left half of the time."""
    return pair if rng.random() < 0.5 else (pair[1], pair[0])
