"""What is said in words of a campaign, and how long its budget lasts, on numbers whose answer is known."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest

from app.domain.enums import Choice
from app.domain.estimates import predictable_share
from app.domain.ratings import Estimate, win_rate
from app.services.campaign_stats import CampaignStats, Forecast, RaterView, WinRateView, _forecast, _timeline
from app.services.verdicts import in_words

BASE, TUNED = UUID(int=1), UUID(int=2)
NAMES = {BASE: "base", TUNED: "epoch 6"}
NOTHING = Estimate(None, None, 0)
START = datetime(2026, 1, 1, tzinfo=UTC)


def stats(wins: int, losses: int, n_raters: int = 6, **fields: object) -> CampaignStats:
    rate = win_rate([1.0] * wins + [0.0] * losses, [str(n % n_raters) for n in range(wins + losses)])
    empty = CampaignStats(
        campaign_id=UUID(int=3), votes=wins + losses, gold_votes=0, retracted_votes=0,
        choices=dict.fromkeys(Choice, 0), agreement=NOTHING, human_ceiling=NOTHING, self_consistency=NOTHING,
        left_bias=NOTHING, raters=[], ratings=None, win_rates=[WinRateView(a=TUNED, b=BASE, **vars(rate))],
        timeline=None, forecast=Forecast(None, None, None), verdict=[],
    )  # fmt: skip
    return replace(empty, **fields)


def test_a_clear_result_is_said_with_its_interval():
    (sentence,) = in_words(stats(84, 16), NAMES)
    assert sentence == "epoch 6 is better than base: it won 84% (76% to 90%) of 100 votes."
    (sentence,) = in_words(stats(16, 84), NAMES)
    assert sentence.startswith("epoch 6 is worse than base: it won 16%")


def test_a_clear_result_of_few_raters_is_said_of_them_alone():
    (sentence,) = in_words(stats(84, 16, n_raters=3), NAMES)
    assert sentence == (
        "epoch 6 is better than base to the 3 raters who voted: it won 84% (76% to 90%) of 100 votes. What others "
        "would say cannot be told from fewer than 5."
    )
    (sentence,) = in_words(stats(84, 16, n_raters=1), NAMES)
    assert "to the one rater who voted" in sentence


def test_what_a_model_could_predict_at_most_is_what_knowing_every_raters_odds_would():
    """Raters who err on a fifth of the pairs agree with one another on 68 %, and are predicted right on 80 %."""
    rng = np.random.default_rng(0)
    said = rng.random((4000, 2)) < 0.8
    agreed = float((said[:, 0] == said[:, 1]).mean())
    assert predictable_share(agreed) == pytest.approx(0.8, abs=0.02)
    odds = rng.uniform(0, 1, 4000)  # pairs that differ: the bound is no longer reached, and still is one
    assert np.maximum(odds, 1 - odds).mean() < predictable_share(float((odds**2 + (1 - odds) ** 2).mean()))
    assert predictable_share(0.4) == 0.5
    ceiling = Estimate(0.68, (0.625, 0.745), 500)
    assert in_words(stats(84, 16, human_ceiling=ceiling), NAMES)[-1] == (
        "Two votes on one pair agree 68% (62% to 74%) of the time; so no reward model can predict more than 80% "
        "(75% to 85%) of single votes."
    )


def test_an_open_result_says_how_many_votes_would_settle_it():
    found = stats(56, 44)
    (sentence,) = in_words(found, NAMES)
    more = found.win_rates[0].more_votes
    assert sentence.startswith("Whether epoch 6 or base is better cannot be told yet: epoch 6 won 56%")
    assert f"about {more} more votes will separate these two checkpoints" in sentence
    n = 100 + (more or 0)
    assert win_rate([1.0] * round(0.56 * n) + [0.0] * (n - round(0.56 * n)), ["a"] * n).verdict == "better"


def test_an_even_result_promises_nothing():
    (sentence,) = in_words(stats(50, 50), NAMES)
    assert "more votes" not in sentence


@pytest.mark.parametrize(("alpha", "word"), [(0.85, "well"), (0.7, "fairly"), (0.3, "little")])
def test_agreement_is_named_by_krippendorffs_bounds(alpha: float, word: str):
    sentences = in_words(stats(84, 16, agreement=Estimate(alpha, None, 40)), NAMES)
    assert f"Raters agree {word} with one another (α = {alpha:.2f} over 40 pairs)." in sentences


def test_raters_to_look_at_are_named_unless_they_were_retracted():
    rater = RaterView(
        user_id=UUID(int=9), name="Bob", n=50, skips=0, median_ms=None, speed_ms=NOTHING, left_share=NOTHING,
        self_consistency=NOTHING, agreement=NOTHING, slope=NOTHING, gold=NOTHING, weight=0.1,
        concerns=("leans to the left", "misses pairs whose answer is known"), retracted=False,
    )  # fmt: skip
    said = in_words(stats(84, 16, raters=[rater]), NAMES)[-1]
    assert said == "1 of 1 raters need a look: Bob leans to the left and misses pairs whose answer is known."
    gone = stats(84, 16, raters=[replace(rater, retracted=True)], retracted_votes=50)
    assert in_words(gone, NAMES)[-1] == "50 votes were retracted and do not count."


def test_the_forecast_is_the_pace_of_the_last_hour():
    old = [START - timedelta(days=3)] * 40
    recent = [START + timedelta(minutes=n) for n in range(31)]
    forecast = _forecast(191, old + recent)
    assert forecast.votes_left == 120
    assert forecast.votes_per_hour == pytest.approx(60)
    assert forecast.hours_left == pytest.approx(2)
    assert _forecast(None, recent).votes_left is None
    assert _forecast(10, [START]).votes_per_hour is None


@pytest.mark.parametrize(("span", "width"), [(30 * 60, 60), (3 * 3600, 300), (30 * 86_400, 86_400), (2e8, 7 * 86_400)])
def test_votes_over_time_fall_into_few_bins_and_none_is_lost(span: float, width: int):
    moments = [START + timedelta(seconds=span * n / 99) for n in range(100)]
    line = _timeline(moments)
    assert line is not None
    assert (line.bin_seconds, sum(line.counts)) == (width, 100)
    assert line.start <= moments[0] < line.start + timedelta(seconds=width)
    assert len(line.counts) <= 49 or width == 7 * 86_400
    assert _timeline([]) is None
