"""Campaigns, leases and votes."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, IdMixin, enum_type
from app.domain.enums import CampaignStatus, Choice, Strategy


class Campaign(IdMixin, Base):
    """A question put to raters about the samples of some checkpoints."""

    __tablename__ = "campaign"
    __table_args__ = (Index(None, "created_at", "id"),)

    name: Mapped[str] = mapped_column(String(120))
    question: Mapped[str] = mapped_column(String(300))
    guidelines: Mapped[str] = mapped_column(Text, default="")
    strategy: Mapped[Strategy] = mapped_column(enum_type(Strategy))
    overlap: Mapped[int] = mapped_column(default=1)
    """How many raters judge each pair."""
    budget: Mapped[int | None]
    """Votes wanted in all; empty has no end."""
    n_leased: Mapped[int] = mapped_column(default=0)
    """Votes plus open leases; never passes the budget."""
    open: Mapped[bool] = mapped_column(default=False)
    """Whether every rater may take part."""
    status: Mapped[CampaignStatus] = mapped_column(enum_type(CampaignStatus), default=CampaignStatus.ACTIVE)
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id", ondelete="SET NULL"))
    created_at: Mapped[datetime]


class CampaignCheckpoint(Base):
    """A source of samples; `position` keeps the order given (a tournament's first is the one that others must beat)."""

    __tablename__ = "campaign_checkpoint"

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True)
    checkpoint_id: Mapped[UUID] = mapped_column(ForeignKey("checkpoint.id"), primary_key=True)
    position: Mapped[int]


class CampaignRater(Base):
    __tablename__ = "campaign_rater"

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"), primary_key=True)


class Pair(IdMixin, Base):
    """Two samples of a campaign, `sample_a_id < sample_b_id`; `n_leased` is what enforces the overlap."""

    __tablename__ = "pair"
    __table_args__ = (
        UniqueConstraint("campaign_id", "sample_a_id", "sample_b_id"),
        # those that are nearest to full first, of these the oldest: the order in which begun pairs are handed out
        Index("ix_pair_begun", "campaign_id", text("n_leased DESC"), "created_at", "id"),
    )

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"))
    sample_a_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id"))
    sample_b_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id"))
    n_leased: Mapped[int] = mapped_column(default=0)
    """Votes plus open leases, repeats and gold left out."""
    created_at: Mapped[datetime]


class Comparison(IdMixin, Base):
    """A lease: one pair as it was shown to one rater."""

    __tablename__ = "comparison"
    __table_args__ = (
        # a rater sees a pair once, and once more as a repeat; what expired unseen may come back
        Index(
            "uq_comparison_pair_id_rater_id_repetition",
            "pair_id",
            "rater_id",
            "repetition",
            unique=True,
            sqlite_where=text("expired = 0"),
            postgresql_where=text("NOT expired"),
        ),
        Index(None, "campaign_id", "rater_id", "leased_at"),
        Index(None, "campaign_id", "closed_at", "expires_at"),
        Index(None, "rater_id", "closed_at"),
    )

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"))
    pair_id: Mapped[UUID] = mapped_column(ForeignKey("pair.id", ondelete="CASCADE"))
    rater_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    left_sample_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id"))
    right_sample_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id"))
    strategy: Mapped[Strategy] = mapped_column(enum_type(Strategy))
    is_random: Mapped[bool]
    """Whether the pair was drawn uniformly: the share that measurements may use."""
    selection_probability: Mapped[float]
    repetition: Mapped[int] = mapped_column(default=0)
    """0 for the first showing to this rater, 1 for the repeat."""
    repeat_of: Mapped[UUID | None] = mapped_column(ForeignKey("comparison.id"))
    """The rater's earlier comparison that this one repeats with sides swapped."""
    is_gold: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Shown for its known answer: it measures the rater, takes none of the pair's places, and is never fitted."""
    leased_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    """When it was voted on or given back; an open lease has none."""
    expired: Mapped[bool] = mapped_column(default=False)
    """Given back without a vote."""


class Preference(Base):
    """The vote on a comparison: at most one, by the primary key."""

    __tablename__ = "preference"
    __table_args__ = (Index(None, "campaign_id", "created_at", "comparison_id"),)

    comparison_id: Mapped[UUID] = mapped_column(ForeignKey("comparison.id", ondelete="CASCADE"), primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"))
    rater_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"), index=True)
    choice: Mapped[Choice] = mapped_column(enum_type(Choice))
    response_ms: Mapped[int | None]
    """Time from shown to chosen, as first recorded."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
