"""SQL of the frozen label snapshot: the votes that a reward model is trained on."""

from typing import Any
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.orm import Session, aliased

from app.db.models import Comparison, Preference, Retraction, Sample


def votes_for_snapshot(session: Session, campaign_id: UUID) -> list[dict[str, Any]]:
    """Every vote of a campaign as a JSON object, in an order that does not change, so that equal votes hash equally.

    Not those of raters who were retracted, and not those on gold pairs: the operator knew their answers before. Skips,
    `both_bad` and repeats are in it: the trainer needs repeats for the human ceiling and leaves out the rest.
    """
    left, right = aliased(Sample), aliased(Sample)
    rows = session.execute(
        select(
            Comparison.id,
            Comparison.rater_id,
            left.sha256,
            right.sha256,
            left.id,
            right.id,
            Preference.choice,
            Comparison.is_random,
            Comparison.selection_probability,
            Comparison.repeat_of,
        )
        .join(Preference, Preference.comparison_id == Comparison.id)
        .join(left, left.id == Comparison.left_sample_id)
        .join(right, right.id == Comparison.right_sample_id)
        .outerjoin(Retraction, and_(Retraction.campaign_id == campaign_id, Retraction.rater_id == Preference.rater_id))
        .where(Preference.campaign_id == campaign_id, ~Comparison.is_gold, Retraction.rater_id.is_(None))
        .order_by(Preference.created_at, Comparison.id)
    )
    return [
        {
            "comparison_id": str(comparison_id),
            "rater": str(rater_id),
            "left_sha256": left_sha256,
            "right_sha256": right_sha256,
            "left_sample_id": str(left_id),
            "right_sample_id": str(right_id),
            "choice": choice.value,
            "is_random": is_random,
            "selection_probability": probability,
            "repeat_of": str(repeat_of) if repeat_of else None,
        }
        for (
            comparison_id,
            rater_id,
            left_sha256,
            right_sha256,
            left_id,
            right_id,
            choice,
            is_random,
            probability,
            repeat_of,
        ) in rows
    ]
