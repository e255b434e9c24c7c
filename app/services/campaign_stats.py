"""What a campaign's votes say: about the checkpoints, and about the raters."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.queries import campaigns as queries
from app.db.queries import gallery as gallery_queries
from app.db.queries.campaigns import VoteRow
from app.domain.enums import Choice
from app.domain.errors import NotFoundError
from app.domain.estimates import Estimate, RaterHealth, Verdict
from app.services import verdicts
from app.services.votes import as_vote

_MOST_BINS = 48
_BIN_SECONDS = (60, 300, 900, 3600, 3 * 3600, 12 * 3600, 86_400, 7 * 86_400)
_PACE_OVER = timedelta(hours=1)


@dataclass(frozen=True)
class WinRateView:
    """Votes for checkpoint a against b, a being the one named later in the campaign. Ties count half in `win_rate`.

    `verdict` says how a stands to b by the 95 % `interval`; `more_votes` is how many more would settle it at this rate.
    With fewer than five raters both speak of these `n_raters` alone, not of how others would vote.
    """

    a: UUID
    b: UUID
    wins: int
    losses: int
    ties: int
    n: int
    win_rate: float | None
    interval: tuple[float, float] | None
    verdict: Verdict
    more_votes: int | None
    n_raters: int


@dataclass(frozen=True)
class RatingView:
    """A checkpoint's Bradley-Terry log-strength (mean 0 over the campaign) with its 95 % interval; n is its votes."""

    checkpoint_id: UUID
    rating: float
    interval: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class RaterView:
    """One rater's manners; see `RaterHealth`. A retracted rater's votes count nowhere else in the statistics."""

    user_id: UUID
    name: str
    n: int
    skips: int
    median_ms: float | None
    speed_ms: Estimate
    left_share: Estimate
    self_consistency: Estimate
    agreement: Estimate
    slope: Estimate
    gold: Estimate
    weight: float
    concerns: tuple[str, ...]
    retracted: bool


@dataclass(frozen=True)
class Timeline:
    """Votes over time: `counts[i]` were given in the `bin_seconds` from `start + i * bin_seconds` on."""

    start: datetime
    bin_seconds: int
    counts: list[int]


@dataclass(frozen=True)
class Forecast:
    """How long the budget lasts: `votes_per_hour` is the pace of the last hour of voting, `hours_left` what it says."""

    votes_left: int | None
    votes_per_hour: float | None
    hours_left: float | None


@dataclass(frozen=True)
class CampaignStats:
    """All of a campaign's statistics. Intervals are at 95 %.

    `agreement` is Krippendorff's alpha between raters over pairs, `human_ceiling` how often two votes on one pair
    agree (`verdict` says what that allows a reward model); these and `self_consistency` count randomly drawn pairs
    alone. `ratings` and `win_rates` count first showings of randomly drawn pairs between different checkpoints and
    leave out skips and `both_bad`; `ratings` is null where the votes do not connect the checkpoints. Votes on gold
    pairs measure raters only, and retracted ones nothing; `verdict` is all of it in words.
    """

    campaign_id: UUID
    votes: int
    gold_votes: int
    retracted_votes: int
    choices: dict[Choice, int]
    agreement: Estimate
    human_ceiling: Estimate
    self_consistency: Estimate
    left_bias: Estimate
    raters: list[RaterView]
    ratings: list[RatingView] | None
    win_rates: list[WinRateView]
    timeline: Timeline | None
    forecast: Forecast
    verdict: list[str]


def campaign_stats(session: Session, campaign_id: UUID) -> CampaignStats:
    """Raises NotFoundError."""
    from app.domain import agreement  # these import numpy, which the web process starts without
    from app.domain.rater_health import rater_health

    campaign = queries.get_campaign(session, campaign_id)
    if campaign is None:
        raise NotFoundError("There is no such campaign; GET /campaigns lists them.")
    stored = queries.votes(session, campaign_id)
    rows = [row for row in stored if not row.is_retracted]
    votes = [as_vote(row) for row in rows]
    ordinary = [vote for vote in votes if vote.gold is None]
    raters = [_rater(row, retracted=False) for row in rater_health(votes)]
    raters += _retracted(stored)
    names = {id: user.name for id, user in queries.users_by_id(session, [row.user_id for row in raters]).items()}
    raters = [replace(row, name=names[row.user_id]) for row in raters]
    checkpoint_ids = queries.checkpoint_ids(session, [campaign_id])[campaign_id]
    duels = _duels(rows, checkpoint_ids)
    counts = Counter(vote.choice for vote in votes)
    stats = CampaignStats(
        campaign_id=campaign_id,
        votes=len(stored),
        gold_votes=len(votes) - len(ordinary),
        retracted_votes=len(stored) - len(rows),
        choices={choice: counts[choice] for choice in Choice},
        agreement=agreement.agreement(votes),
        human_ceiling=agreement.human_ceiling(votes),
        self_consistency=agreement.self_consistency([vote for vote in votes if vote.is_random]),
        left_bias=agreement.left_share(votes),
        raters=raters,
        ratings=_ratings(duels, checkpoint_ids),
        win_rates=_win_rates(duels, checkpoint_ids),
        timeline=_timeline([row.created_at for row in stored]),
        forecast=_forecast(campaign.budget, [row.created_at for row in stored]),
        verdict=[],
    )
    known = gallery_queries.existing_checkpoints(session, checkpoint_ids)
    return replace(stats, verdict=verdicts.in_words(stats, {id: row.name for id, row in known.items()}))


@dataclass(frozen=True)
class _Duel:
    """One vote between two checkpoints: `score` is the later one's (1 won, 0.5 tie, 0 lost)."""

    later: int
    earlier: int
    score: float
    rater: UUID


def _rater(health: RaterHealth, *, retracted: bool) -> RaterView:
    return RaterView(
        user_id=health.rater,
        name="",
        n=health.n,
        skips=health.skips,
        median_ms=health.median_ms,
        speed_ms=health.speed_ms,
        left_share=health.left_share,
        self_consistency=health.self_consistency,
        agreement=health.agreement,
        slope=health.slope,
        gold=health.gold,
        weight=0.0 if retracted else health.weight,
        concerns=health.concerns,
        retracted=retracted,
    )


def _retracted(stored: Sequence[VoteRow]) -> list[RaterView]:
    """How those stand to the others who do not count any more."""
    from app.domain.rater_health import rater_health

    gone = {row.rater_id for row in stored if row.is_retracted}
    if not gone:
        return []
    health = rater_health([as_vote(row) for row in stored])
    return [_rater(row, retracted=True) for row in health if row.rater in gone]


def _timeline(moments: Sequence[datetime]) -> Timeline | None:
    """At most `_MOST_BINS` bins of a round width."""
    if not moments:
        return None
    first, last = min(moments), max(moments)
    span = (last - first).total_seconds()
    width = next((width for width in _BIN_SECONDS if span < width * _MOST_BINS), _BIN_SECONDS[-1])
    start = datetime.fromtimestamp(first.timestamp() // width * width, UTC)
    counts = Counter(int((moment - start).total_seconds() // width) for moment in moments)
    return Timeline(start, width, [counts[bin] for bin in range(max(counts) + 1)])


def _forecast(budget: int | None, moments: Sequence[datetime]) -> Forecast:
    left = None if budget is None else max(0, budget - len(moments))
    if len(moments) < 2:
        return Forecast(left, None, None)
    last = max(moments)
    recent = [moment for moment in moments if last - moment < _PACE_OVER]
    seconds = (last - min(recent)).total_seconds()
    pace = (len(recent) - 1) * 3600 / seconds if seconds > 0 else None
    return Forecast(left, pace, None if left is None or not pace else left / pace)


def _duels(rows: Sequence[VoteRow], checkpoint_ids: Sequence[UUID]) -> list[_Duel]:
    position = {id: index for index, id in enumerate(checkpoint_ids)}
    duels = []
    for row in rows:
        left_share = row.choice.left_share
        left, right = position[row.left_checkpoint_id], position[row.right_checkpoint_id]
        if (
            left_share is None or left == right or row.repeat_of is not None or not row.is_random
        ):  # gold is never random
            continue
        if left > right:
            duels.append(_Duel(left, right, left_share, row.rater_id))
        else:
            duels.append(_Duel(right, left, 1 - left_share, row.rater_id))
    return duels


def _win_rates(duels: Sequence[_Duel], checkpoint_ids: Sequence[UUID]) -> list[WinRateView]:
    from app.domain import ratings

    by_pair: dict[tuple[int, int], list[_Duel]] = defaultdict(list)
    for duel in duels:
        by_pair[duel.later, duel.earlier].append(duel)
    views = []
    for earlier, later in combinations(range(len(checkpoint_ids)), 2):
        met = by_pair[later, earlier]
        if met:
            rate = ratings.win_rate([duel.score for duel in met], [duel.rater for duel in met])
            views.append(WinRateView(a=checkpoint_ids[later], b=checkpoint_ids[earlier], **vars(rate)))
    return views


def _ratings(duels: Sequence[_Duel], checkpoint_ids: Sequence[UUID]) -> list[RatingView] | None:
    from app.domain import ratings

    rated = ratings.rate_items(
        len(checkpoint_ids),
        [duel.later for duel in duels],
        [duel.earlier for duel in duels],
        [duel.score for duel in duels],
        [duel.rater for duel in duels],
    )
    if rated is None:
        return None
    return [
        RatingView(checkpoint_id=id, rating=estimate.value, interval=estimate.interval, n=estimate.n)
        for id, estimate in zip(checkpoint_ids, rated, strict=True)
        if estimate.value is not None
    ]
