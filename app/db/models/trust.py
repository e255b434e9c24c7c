"""What makes votes trustworthy: pairs with a known answer, raters whose votes were retracted, who is in a snapshot."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class GoldPair(Base):
    """A pair whose better image is beyond doubt. Raters see it among the others; it measures them and nothing else."""

    __tablename__ = "gold_pair"
    __table_args__ = (Index(None, "campaign_id", "retired_at"),)

    pair_id: Mapped[UUID] = mapped_column(ForeignKey("pair.id", ondelete="CASCADE"), primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"))
    better_sample_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id"))
    """The sample of the pair that an attentive rater prefers."""
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id", ondelete="SET NULL"))
    created_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]
    """Since when it is not shown as gold any more; answers given before still count."""


class Retraction(Base):
    """A rater whose votes in a campaign do not count any more. The votes stay; undoing it deletes this row."""

    __tablename__ = "retraction"

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True)
    rater_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"), primary_key=True)
    reason: Mapped[str] = mapped_column(String(300), default="")
    retracted_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id", ondelete="SET NULL"))
    retracted_at: Mapped[datetime]


class SnapshotRater(Base):
    """How many votes of a rater a label snapshot froze, and how much each of them weighs in the fit."""

    __tablename__ = "snapshot_rater"

    snapshot_id: Mapped[UUID] = mapped_column(ForeignKey("label_snapshot.id", ondelete="CASCADE"), primary_key=True)
    rater_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"), primary_key=True, index=True)
    n_votes: Mapped[int]
    weight: Mapped[float]
