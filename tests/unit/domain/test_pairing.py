"""Drawing pairs: uniform over unordered pairs, sides fair, the least certain one found."""

from collections import Counter
from random import Random
from uuid import UUID

import pytest
from scipy.stats import chisquare

from app.domain import pairing


def test_every_unordered_pair_is_equally_likely():
    rng = Random(0)
    counts = Counter(frozenset(pairing.draw_distinct(6, rng)) for _ in range(15_000))
    assert len(counts) == pairing.pair_count(6) == 15
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_the_two_things_of_a_pair_differ_even_when_there_are_only_two():
    rng = Random(0)
    assert {frozenset(pairing.draw_distinct(2, rng)) for _ in range(50)} == {frozenset({0, 1})}


def test_one_thing_makes_no_pair():
    with pytest.raises(ValueError, match="two"):
        pairing.draw_distinct(1, Random(0))


def test_positions_run_through_the_groups_end_to_end():
    sizes = [2, 0, 3]
    assert [pairing.locate(position, sizes) for position in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    with pytest.raises(IndexError):
        pairing.locate(5, sizes)


def test_a_pair_is_stored_the_same_whichever_way_it_was_drawn():
    low, high = UUID(int=1), UUID(int=2)
    assert pairing.canonical(low, high) == pairing.canonical(high, low) == (low, high)


def test_sides_are_fair():
    rng = Random(1)
    left = Counter(pairing.shuffled_sides(("a", "b"), rng)[0] for _ in range(4000))
    assert chisquare(list(left.values())).pvalue > 0.001
