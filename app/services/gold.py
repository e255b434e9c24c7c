"""Gold pairs: two samples of which an operator knows the better one, shown to raters like any other pair."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import Campaign, GoldPair, Sample
from app.db.queries import campaigns as campaign_queries
from app.db.queries import labeling as labeling_queries
from app.db.queries import trust as queries
from app.db.queries.bulk import insert_or_ignore
from app.domain.enums import Strategy
from app.domain.errors import InvalidSpecError, NotFoundError
from app.domain.estimates import Estimate
from app.services import audit
from app.services.accounts import Principal


@dataclass(frozen=True)
class GoldView:
    """A gold pair. `passed` is the share of raters who chose the better one, with a Beta interval."""

    pair_id: UUID
    better_sample_id: UUID
    worse_sample_id: UUID
    passed: Estimate
    created_at: datetime
    retired_at: datetime | None


def mark_gold(
    session: Session, who: Principal, campaign_id: UUID, *, better: UUID, worse: UUID, now: datetime
) -> GoldView:
    """Make a pair gold: from now on every rater of the campaign gets it once, somewhere among the others.

    Marking it again changes its answer, and brings a retired one back.

    Raises:
        NotFoundError: there is no such campaign.
        InvalidSpecError: the samples are not two of this campaign's; or, in a tournament, are not of the same noise,
            by which raters could tell the pair from the others.
    """
    campaign = campaign_queries.get_campaign(session, campaign_id)
    if campaign is None:
        raise NotFoundError("There is no such campaign; GET /campaigns lists them.")
    _require_alike(session, campaign, better, worse)
    pair_id = labeling_queries.ensure_pair(session, campaign_id, (better, worse), now=now)
    row = {
        "pair_id": pair_id, "campaign_id": campaign_id, "better_sample_id": better, "created_by": who.user_id,
        "created_at": now,
    }  # fmt: skip
    insert_or_ignore(session, GoldPair, [row])  # two operators may mark it at once: the later word holds
    gold = session.get_one(GoldPair, pair_id)
    gold.better_sample_id, gold.retired_at = better, None
    session.flush()
    audit.record(session, who.user_id, "gold.mark", campaign_id, now, pair=str(pair_id))
    return next(view for view in list_gold(session, campaign_id) if view.pair_id == pair_id)


def list_gold(session: Session, campaign_id: UUID) -> list[GoldView]:
    """A campaign's gold pairs, oldest first."""
    return [
        GoldView(
            pair_id=row.gold.pair_id,
            better_sample_id=row.gold.better_sample_id,
            worse_sample_id=row.sample_b_id if row.gold.better_sample_id == row.sample_a_id else row.sample_a_id,
            passed=_share(row.right, row.answers),
            created_at=row.gold.created_at,
            retired_at=row.gold.retired_at,
        )
        for row in queries.gold_pairs(session, campaign_id)
    ]


def retire_gold(session: Session, who: Principal, campaign_id: UUID, pair_id: UUID, now: datetime) -> None:
    """Show it no more. Answers that were given still count. Retiring again changes nothing.

    Raises:
        NotFoundError: there is no such gold pair in this campaign.
    """
    gold = session.get(GoldPair, pair_id)
    if gold is None or gold.campaign_id != campaign_id:
        raise NotFoundError("There is no such gold pair; GET /campaigns/{id}/gold lists them.")
    if gold.retired_at is None:
        gold.retired_at = now
        session.flush()
        audit.record(session, who.user_id, "gold.retire", campaign_id, now, pair=str(pair_id))


def _require_alike(session: Session, campaign: Campaign, better: UUID, worse: UUID) -> None:
    samples = queries.samples_with_checkpoints(session, [better, worse])
    checkpoint_ids = campaign_queries.checkpoint_ids(session, [campaign.id])[campaign.id]
    for field, id in (("better_sample_id", better), ("worse_sample_id", worse)):
        if id not in samples or samples[id].checkpoint_id not in checkpoint_ids:
            raise _wrong(field, f"There is no sample {id} in this campaign's checkpoints.")
    if better == worse:
        raise _wrong("worse_sample_id", "A gold pair needs two different samples.")
    if campaign.strategy is Strategy.TOURNAMENT and not _twins(samples[better], samples[worse], checkpoint_ids[0]):
        raise _wrong(
            "worse_sample_id",
            "In a tournament both samples must be of the same noise, one of them of its first checkpoint, "
            "or raters could tell the pair from the others.",
        )


def _twins(first: Sample, second: Sample, reference: UUID) -> bool:
    same = all(getattr(first, name) == getattr(second, name) for name in ("seed", "steps", "eta", "guidance_key"))
    return same and reference in (first.checkpoint_id, second.checkpoint_id)


def _share(right: int, n: int) -> Estimate:
    from app.domain.rater_health import beta_interval  # imports numpy

    return Estimate(right / n, beta_interval(right + 0.5, n - right + 0.5), n) if n else Estimate(None, None, 0)


def _wrong(field: str, message: str) -> InvalidSpecError:
    return InvalidSpecError(message, [{"field": field, "message": message}])
