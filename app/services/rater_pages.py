"""One rater in one campaign: health, pace, and what was learned from their votes."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import User
from app.services.campaign_stats import CampaignStats, RaterView, campaign_stats
from app.services.retractions import RetractionView, standing_of


@dataclass(frozen=True)
class RaterHealthView:
    """`health` is null before the first vote; `rank` is the place by slope among raters who have one, 1 the lowest."""

    rater_id: UUID
    name: str
    campaign_id: UUID
    health: RaterView | None
    rank: int | None
    n_ranked: int
    standing: RetractionView


def rater_health_view(session: Session, campaign_id: UUID, rater_id: UUID) -> RaterHealthView:
    """Raises NotFoundError: there is no such campaign, or nobody of that id has part in it."""
    standing = standing_of(session, campaign_id, rater_id)
    stats = campaign_stats(session, campaign_id)
    health = next((row for row in stats.raters if row.user_id == rater_id), None)
    ranked = _by_slope(stats)
    return RaterHealthView(
        rater_id=rater_id,
        name=session.get_one(User, rater_id).name,
        campaign_id=campaign_id,
        health=health,
        rank=ranked.index(rater_id) + 1 if rater_id in ranked else None,
        n_ranked=len(ranked),
        standing=standing,
    )


def _by_slope(stats: CampaignStats) -> list[UUID]:
    known = [(row.slope.value, str(row.user_id), row.user_id) for row in stats.raters if row.slope.value is not None]
    return [id for _, _, id in sorted(known)]
