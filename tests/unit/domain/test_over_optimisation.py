"""One verdict from the evidence."""

from dataclasses import replace

import pytest

from app.domain.estimates import Estimate
from app.domain.over_optimisation import Evidence, Verdict, judge
from app.domain.ratings import proportion
from app.domain.tables import Mean, PairedRow


def row(task: str, difference: float, sem: float = 0.1) -> PairedRow:
    return PairedRow(task, "tuned", Mean(1, 0.1), Mean(1 + difference, 0.1), Mean(difference, sem), 100)


def vendi(value: float) -> Estimate:
    return Estimate(value, (value - 1, value + 1), 100)


GAIN = Evidence(optimised=row("warmth", 2.0))
LIKED, DISLIKED, UNSURE = proportion(80, 100), proportion(30, 100), proportion(52, 100)
LESS_DIVERSE = (vendi(20), vendi(14))
COLLAPSED = (vendi(20), vendi(6))
COPIES = (proportion(1, 100), proportion(40, 100))


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (Evidence(optimised=row("warmth", 0.15)), Verdict.NO_GAIN),
        (Evidence(optimised=row("warmth", -2.0)), Verdict.NO_GAIN),
        (replace(GAIN, optimised=row("warmth", 0.15), win_rate=LIKED), Verdict.NO_GAIN),
        (GAIN, Verdict.IMPROVED),
        (replace(GAIN, win_rate=LIKED, diversity=(vendi(20), vendi(19))), Verdict.IMPROVED),
        (replace(GAIN, win_rate=UNSURE), Verdict.IMPROVED),
        (replace(GAIN, held_out=[row("sharpness", -0.15)]), Verdict.IMPROVED),
        (replace(GAIN, kl_nats=900.0), Verdict.IMPROVED),
        (replace(GAIN, diversity=LESS_DIVERSE), Verdict.IMPROVED_AT_A_COST),
        (replace(GAIN, copies=COPIES), Verdict.IMPROVED_AT_A_COST),
        (replace(GAIN, kl_nats=900.0, max_kl_nats=500.0), Verdict.IMPROVED_AT_A_COST),
        (replace(GAIN, held_out=[row("sharpness", -1.0)]), Verdict.IMPROVED_AT_A_COST),
        (replace(GAIN, win_rate=LIKED, diversity=COLLAPSED, copies=COPIES), Verdict.IMPROVED_AT_A_COST),
        (replace(GAIN, win_rate=DISLIKED), Verdict.OVER_OPTIMISED),
        (replace(GAIN, win_rate=UNSURE, diversity=LESS_DIVERSE), Verdict.OVER_OPTIMISED),
        (replace(GAIN, diversity=COLLAPSED), Verdict.OVER_OPTIMISED),
        (replace(GAIN, diversity=LESS_DIVERSE, copies=COPIES), Verdict.OVER_OPTIMISED),
    ],
)
def test_the_verdict_follows_the_evidence(evidence: Evidence, verdict: Verdict) -> None:
    assert judge(evidence).verdict is verdict


def test_the_sentence_says_what_moved_and_every_alarm() -> None:
    evidence = replace(GAIN, win_rate=DISLIKED, diversity=COLLAPSED, held_out=[row("sharpness", -1.0)])
    report = judge(evidence)
    assert report.sentence == (
        "Over-optimised: warmth moved by +2.00 (standard error 0.1), but people prefer it to the base in only 30% of "
        "votes, diversity fell to 30% of the base's and sharpness fell by 1.00."
    )
    assert len(report.alarms) == 3


def test_evidence_without_values_raises_no_alarm() -> None:
    nothing = Estimate(None, None, 0)
    report = judge(replace(GAIN, win_rate=nothing, diversity=(nothing, nothing), copies=(nothing, nothing)))
    assert report.alarms == []
    assert report.verdict is Verdict.IMPROVED
