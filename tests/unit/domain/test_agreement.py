"""Agreement and raters' manners against `krippendorff` and votes whose answer is known."""

from uuid import UUID

import krippendorff
import numpy as np
import pytest

from app.domain import agreement
from app.domain.enums import Choice
from app.domain.estimates import Vote
from app.domain.rater_health import rater_health

ADA, BOB, CY = (UUID(int=number) for number in (1, 2, 3))
_next_id = iter(range(100, 10_000))


def vote(
    pair: int, rater: UUID, choice: str, *, a_is_left: bool = True, repeat_of: Vote | None = None, ms: int | None = None
):
    return Vote(
        comparison_id=UUID(int=next(_next_id)),
        pair=UUID(int=pair),
        rater=rater,
        choice=Choice(choice),
        a_is_left=a_is_left,
        response_ms=ms,
        repeat_of=repeat_of.comparison_id if repeat_of else None,
    )


@pytest.mark.parametrize("seed", range(4))
def test_alpha_matches_the_krippendorff_package(seed: int):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (30, 4))
    oracle = krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")
    result = agreement.krippendorff_alpha(counts)
    assert result.value == pytest.approx(oracle, abs=1e-12)
    assert result.interval[0] < oracle < result.interval[1]


def test_raters_who_always_agree_have_alpha_one():
    counts = np.array([[3, 0], [0, 3], [2, 0]])
    assert agreement.krippendorff_alpha(counts).value == 1


def test_alpha_is_not_defined_without_overlap_or_without_variety():
    assert agreement.krippendorff_alpha(np.array([[1, 0], [0, 1]])).value is None
    assert agreement.krippendorff_alpha(np.array([[2, 0], [3, 0]])).value is None


def test_the_interval_of_alpha_covers_the_truth():
    rng = np.random.default_rng(8)

    def campaign(units: int) -> np.ndarray:
        answer = rng.integers(0, 2, units)
        wrong = rng.random((units, 3)) < 0.2
        says_one = (answer[:, None] ^ wrong).sum(1)
        return np.stack([3 - says_one, says_one], 1)

    truth = 1 - (2 * 0.8 * 0.2) / 0.5  # two raters differ when one of them errs; by chance half of the time
    covered = 0
    for seed in range(200):
        low, high = agreement.krippendorff_alpha(campaign(120), seed=seed).interval
        covered += low <= truth <= high
    assert 0.91 <= covered / 200 <= 0.98


def test_agreement_looks_through_the_sides():
    votes = [
        vote(1, ADA, "left", a_is_left=True),
        vote(1, BOB, "right", a_is_left=False),
        vote(2, ADA, "left", a_is_left=False),
        vote(2, BOB, "right", a_is_left=True),
    ]
    assert agreement.agreement(votes).value == 1


def test_skips_and_repeats_do_not_count_toward_agreement():
    first = vote(1, ADA, "left")
    votes = [first, vote(1, ADA, "left", a_is_left=False, repeat_of=first), vote(1, BOB, "skip")]
    assert agreement.agreement(votes).n == 0


def test_self_consistency_compares_a_repeat_with_the_first_vote_whatever_the_side():
    firsts = [vote(pair, ADA, "left") for pair in range(4)]
    repeats = [
        vote(0, ADA, "right", a_is_left=False, repeat_of=firsts[0]),  # the same image again
        vote(1, ADA, "left", a_is_left=False, repeat_of=firsts[1]),  # the other one
        vote(2, ADA, "tie", a_is_left=False, repeat_of=firsts[2]),
        vote(3, ADA, "skip", a_is_left=False, repeat_of=firsts[3]),
    ]
    result = agreement.self_consistency([*firsts, *repeats])
    assert (result.value, result.n) == (pytest.approx(1 / 3), 3)


def test_left_share_leaves_out_what_has_no_side():
    result = agreement.left_share(
        [vote(n, ADA, choice) for n, choice in enumerate(["left", "left", "right", "tie", "skip"])]
    )
    assert (result.value, result.n) == (pytest.approx(2 / 3), 3)


def test_a_raters_health_names_speed_skips_and_agreement_with_the_others():
    votes = [
        vote(1, ADA, "left", ms=900), vote(1, BOB, "left", ms=2000), vote(1, CY, "right", ms=100),
        vote(2, ADA, "left", ms=1100), vote(2, BOB, "left"), vote(2, CY, "right", ms=300),
        vote(3, ADA, "skip"),
    ]  # fmt: skip
    health = {row.rater: row for row in rater_health(votes)}
    assert rater_health(votes)[0].rater == ADA
    assert (health[ADA].n, health[ADA].skips, health[ADA].median_ms) == (3, 1, 1000)
    assert health[CY].agreement.value == 0  # on both pairs the other two say the opposite
    assert health[ADA].agreement.n == 0  # without Ada's own vote the others are split on both pairs
    assert health[CY].left_share.value == 0


def test_somebody_alone_has_no_agreement_to_speak_of():
    (health,) = rater_health([vote(1, ADA, "left")])
    assert health.agreement.value is None
    assert health.median_ms is None
