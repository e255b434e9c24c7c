"""What a campaign's votes say: about the checkpoints, and about the raters."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.queries import campaigns as queries
from app.db.queries.campaigns import VoteRow
from app.domain import agreement, ratings
from app.domain.agreement import RaterHealth, Vote
from app.domain.enums import Choice
from app.domain.errors import NotFoundError
from app.domain.ratings import Estimate, Verdict


@dataclass(frozen=True)
class WinRateView:
    """Votes for checkpoint a against b, a being the one named later in the campaign. Ties count half in `win_rate`.

    `verdict` says how a stands to b by the 95 % `interval`; `more_votes` is how many more would settle it at this rate.
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


@dataclass(frozen=True)
class RatingView:
    """A checkpoint's Bradley-Terry log-strength (mean 0 over the campaign) with its 95 % interval; n is its votes."""

    checkpoint_id: UUID
    rating: float
    interval: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class RaterView:
    """One rater's manners; see `RaterHealth`."""

    user_id: UUID
    name: str
    n: int
    skips: int
    median_ms: float | None
    left_share: Estimate
    self_consistency: Estimate
    agreement: Estimate


@dataclass(frozen=True)
class CampaignStats:
    """All of a campaign's statistics. Intervals are at 95 %.

    `agreement` is Krippendorff's alpha between raters over pairs. `ratings` and `win_rates` count first showings of
    randomly drawn pairs between different checkpoints and leave out skips and `both_bad`; `ratings` is null where the
    votes do not connect the checkpoints.
    """

    campaign_id: UUID
    votes: int
    choices: dict[Choice, int]
    agreement: Estimate
    self_consistency: Estimate
    left_bias: Estimate
    raters: list[RaterView]
    ratings: list[RatingView] | None
    win_rates: list[WinRateView]


def campaign_stats(session: Session, campaign_id: UUID) -> CampaignStats:
    """Raises NotFoundError."""
    if queries.get_campaign(session, campaign_id) is None:
        raise NotFoundError("There is no such campaign; GET /campaigns lists them.")
    rows = queries.votes(session, campaign_id)
    votes = [_vote(row) for row in rows]
    health = agreement.rater_health(votes)
    names = {id: user.name for id, user in queries.users_by_id(session, [row.rater for row in health]).items()}
    checkpoint_ids = queries.checkpoint_ids(session, [campaign_id])[campaign_id]
    duels = _duels(rows, checkpoint_ids)
    counts = Counter(vote.choice for vote in votes)
    return CampaignStats(
        campaign_id=campaign_id,
        votes=len(votes),
        choices={choice: counts[choice] for choice in Choice},
        agreement=agreement.agreement(votes),
        self_consistency=agreement.self_consistency(votes),
        left_bias=agreement.left_share(votes),
        raters=[_rater(row, names[row.rater]) for row in health],
        ratings=_ratings(duels, checkpoint_ids),
        win_rates=_win_rates(duels, checkpoint_ids),
    )


@dataclass(frozen=True)
class _Duel:
    """One vote between two checkpoints: `score` is the later one's (1 won, 0.5 tie, 0 lost)."""

    later: int
    earlier: int
    score: float
    rater: UUID


def _vote(row: VoteRow) -> Vote:
    return Vote(
        comparison_id=row.comparison_id,
        pair=row.pair_id,
        rater=row.rater_id,
        choice=row.choice,
        a_is_left=row.left_sample_id == row.sample_a_id,
        response_ms=row.response_ms,
        repeat_of=row.repeat_of,
    )


def _rater(health: RaterHealth, name: str) -> RaterView:
    return RaterView(
        user_id=health.rater,
        name=name,
        n=health.n,
        skips=health.skips,
        median_ms=health.median_ms,
        left_share=health.left_share,
        self_consistency=health.self_consistency,
        agreement=health.agreement,
    )


def _duels(rows: Sequence[VoteRow], checkpoint_ids: Sequence[UUID]) -> list[_Duel]:
    position = {id: index for index, id in enumerate(checkpoint_ids)}
    duels = []
    for row in rows:
        left_share = row.choice.left_share
        left, right = position[row.left_checkpoint_id], position[row.right_checkpoint_id]
        if left_share is None or left == right or row.repeat_of is not None or not row.is_random:
            continue
        if left > right:
            duels.append(_Duel(left, right, left_share, row.rater_id))
        else:
            duels.append(_Duel(right, left, 1 - left_share, row.rater_id))
    return duels


def _win_rates(duels: Sequence[_Duel], checkpoint_ids: Sequence[UUID]) -> list[WinRateView]:
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
