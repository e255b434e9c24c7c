"""Over-optimisation (thesis, section 5.3): did finetuning earn its reward, or exploit it? Numbers and one verdict.

A policy that exploits a proxy raises the reward it is trained on while people stop preferring it, its images become
alike, or it drifts far from the reference policy (Gao, Schulman and Hilton 2022, arXiv:2210.10760).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.domain.estimates import Z_95, Estimate
from app.domain.tables import Mean, PairedRow

LOST_DIVERSITY_RATIO = 0.8
"""Diversity below this share of the base's is an alarm ..."""
COLLAPSED_DIVERSITY_RATIO = 0.5
"""... and below this one a collapse, which needs no second witness."""


class Verdict(StrEnum):
    NO_GAIN = "no gain"
    IMPROVED = "improved"
    IMPROVED_AT_A_COST = "improved at a cost"
    OVER_OPTIMISED = "over-optimised"


@dataclass(frozen=True)
class Evidence:
    """What is known of a checkpoint beside its base. Everything but the optimised reward may be missing."""

    optimised: PairedRow
    held_out: Sequence[PairedRow] = ()
    """Rewards that were measured and not optimised."""
    diversity: tuple[Estimate, Estimate] | None = None
    """The Vendi score of the base and of the checkpoint."""
    copies: tuple[Estimate, Estimate] | None = None
    """The share of near copies among the base's samples and among the checkpoint's."""
    kl_nats: float | None = None
    """KL of the checkpoint's trajectories to the base."""
    max_kl_nats: float | None = None
    """The run's KL budget, where it had one."""
    win_rate: Estimate | None = None
    """How often people prefer the checkpoint to the base, from 0 to 1."""


@dataclass(frozen=True)
class Report:
    verdict: Verdict
    sentence: str
    """The verdict in words, with the numbers it rests on."""
    alarms: list[str]
    """What speaks against the checkpoint, the gravest first; one clause each."""
    witnesses: tuple[str, ...] = ()
    """What each alarm rests on, in their order: `win_rate`, `diversity`, `copies`, `kl`, `held_out:<reward>`."""


def judge(evidence: Evidence) -> Report:
    """One verdict from all the evidence; a difference counts where its 95 % interval leaves "no change" out.

    People overrule proxies. Where the optimised reward did not rise there is no gain. Where it did, a checkpoint that
    people like less is over-optimised, and one that they like more has improved, at a cost if there are alarms. Where
    people cannot tell the two apart, one alarm is enough for over-optimised; where nobody was asked it takes two, or
    a collapse of diversity.
    """
    found = _alarms(evidence)
    alarms, witnesses = list(found.values()), tuple(found)
    preferred = None if evidence.win_rate is None else _side(evidence.win_rate.interval, 0.5)
    gain = evidence.optimised.difference
    moved = f"{evidence.optimised.task} moved by {gain.mean:+.{gain.decimals}f} (standard error {gain.sem:.2g})"
    if _side(_interval(gain), 0.0) <= 0:
        return Report(Verdict.NO_GAIN, f"No gain: {moved}.", alarms, witnesses)
    if preferred == -1 or (alarms and preferred != 1 and (preferred == 0 or len(alarms) > 1 or _collapsed(evidence))):
        sentence = f"Over-optimised: {moved}, but {_joined(alarms)}."
        return Report(Verdict.OVER_OPTIMISED, sentence, alarms, witnesses)
    people = {
        1: "and people prefer it",
        0: "and people cannot tell it from the base yet",
        None: "and nothing else fell",
    }
    if alarms:
        sentence = f"Improved at a cost: {moved}, but {_joined(alarms)}."
        return Report(Verdict.IMPROVED_AT_A_COST, sentence, alarms, witnesses)
    people = {1: "and people prefer it", 0: "but people cannot tell it from the base yet", None: "at no cost seen"}
    return Report(Verdict.IMPROVED, f"Improved: {moved}, {people[preferred]}.", alarms)


def _alarms(evidence: Evidence) -> dict[str, str]:
    """Clauses by what they rest on."""
    alarms: dict[str, str] = {}
    if evidence.win_rate is not None and _side(evidence.win_rate.interval, 0.5) == -1:
        alarms["win_rate"] = f"people prefer it to the base in only {evidence.win_rate.value:.0%} of votes"
    ratio = _diversity_ratio(evidence)
    if ratio is not None and ratio < LOST_DIVERSITY_RATIO:
        alarms["diversity"] = f"diversity fell to {ratio:.0%} of the base's"
    if evidence.copies is not None:
        before, after = evidence.copies
        if before.interval is not None and after.interval is not None and after.interval[0] > before.interval[1]:
            alarms["copies"] = f"near copies rose from {before.value:.0%} to {after.value:.0%} of the samples"
    if evidence.kl_nats is not None and evidence.max_kl_nats is not None and evidence.kl_nats > evidence.max_kl_nats:
        kl, budget = evidence.kl_nats, evidence.max_kl_nats
        alarms["kl"] = f"the KL to the base is {kl:.4g} nats, past the budget of {budget:.4g}"
    fallen = [row for row in evidence.held_out if _side(_interval(row.difference), 0.0) == -1]
    return alarms | {
        f"held_out:{row.task}": f"{row.task} fell by {-row.difference.mean:.{row.difference.decimals}f}"
        for row in fallen
    }


def _diversity_ratio(evidence: Evidence) -> float | None:
    if evidence.diversity is None or evidence.diversity[0].value is None or evidence.diversity[1].value is None:
        return None
    return evidence.diversity[1].value / evidence.diversity[0].value


def _collapsed(evidence: Evidence) -> bool:
    ratio = _diversity_ratio(evidence)
    return ratio is not None and ratio < COLLAPSED_DIVERSITY_RATIO


def _interval(difference: Mean) -> tuple[float, float]:
    return difference.mean - Z_95 * difference.sem, difference.mean + Z_95 * difference.sem


def _side(interval: tuple[float, float] | None, neutral: float) -> int:
    """1 where the interval lies above `neutral`, -1 where below, 0 where it holds it or there is none."""
    if interval is None:
        return 0
    return (interval[0] > neutral) - (interval[1] < neutral)


def _joined(clauses: Sequence[str]) -> str:
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"
