"""A campaign's statistics as a few sentences that an operator can act on."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from app.domain.estimates import MIN_CLUSTERS, predictable_share

if TYPE_CHECKING:
    from app.services.campaign_stats import CampaignStats, WinRateView

_RELIABLE, _TENTATIVE = 0.8, 0.667
"""Krippendorff's own bounds of alpha, "Content Analysis" (2004), p. 241."""


def in_words(stats: "CampaignStats", names: Mapping[UUID, str]) -> list[str]:
    """Which checkpoint is better, how far the votes can be trusted, and whom to look at; one sentence each."""
    if not stats.votes:
        return []
    return [*_comparisons(stats, names), *_trust(stats), *_raters(stats)]


def _comparisons(stats: "CampaignStats", names: Mapping[UUID, str]) -> Iterable[str]:
    for duel in stats.win_rates:
        if duel.win_rate is None or duel.interval is None:
            continue
        yield _comparison(duel, names[duel.a], names[duel.b])


def _comparison(duel: "WinRateView", a: str, b: str) -> str:
    assert duel.win_rate is not None
    assert duel.interval is not None
    low, high = duel.interval
    share = f"{duel.win_rate:.0%} ({low:.0%} to {high:.0%}) of {duel.n:,} votes"
    if duel.verdict != "cannot tell yet":
        if duel.n_raters < MIN_CLUSTERS:
            whom = "the one rater" if duel.n_raters == 1 else f"the {duel.n_raters} raters"
            return (
                f"{a} is {duel.verdict} than {b} to {whom} who voted: it won {share}. What others would say cannot be "
                f"told from fewer than {MIN_CLUSTERS}."
            )
        return f"{a} is {duel.verdict} than {b}: it won {share}."
    more = ""
    if duel.more_votes is not None:
        more = f"; if that stays so, about {duel.more_votes:,} more votes will separate these two checkpoints"
    return f"Whether {a} or {b} is better cannot be told yet: {a} won {share}{more}."


def _trust(stats: "CampaignStats") -> Iterable[str]:
    alpha = stats.agreement
    if alpha.value is not None:
        words = "well" if alpha.value >= _RELIABLE else "fairly" if alpha.value >= _TENTATIVE else "little"
        yield f"Raters agree {words} with one another (α = {alpha.value:.2f} over {alpha.n:,} pairs)."
    ceiling = stats.human_ceiling
    if ceiling.value is not None and ceiling.interval is not None:
        low, high = ceiling.interval
        most, at_least, at_most = (predictable_share(value) for value in (ceiling.value, low, high))
        yield (
            f"Two votes on one pair agree {ceiling.value:.0%} ({low:.0%} to {high:.0%}) of the time; so no reward "
            f"model can predict more than {most:.0%} ({at_least:.0%} to {at_most:.0%}) of single votes."
        )


def _raters(stats: "CampaignStats") -> Iterable[str]:
    looked_at = [rater for rater in stats.raters if rater.concerns and not rater.retracted]
    if looked_at:
        said = "; ".join(f"{rater.name} {' and '.join(rater.concerns)}" for rater in looked_at[:5])
        more = f"; and {len(looked_at) - 5} more" if len(looked_at) > 5 else ""
        yield f"{len(looked_at)} of {len(stats.raters)} raters need a look: {said}{more}."
    if stats.retracted_votes:
        yield f"{stats.retracted_votes:,} votes were retracted and do not count."
