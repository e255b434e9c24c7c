"""How raters come into a campaign without an account of their own, and what they are shown as examples."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, IdMixin, enum_type
from app.domain.enums import Choice


class Invitation(IdMixin, Base):
    """A link into one campaign; only the code's SHA-256 is kept, the code itself is shown once."""

    __tablename__ = "invitation"
    __table_args__ = (Index(None, "campaign_id", "created_at", "id"),)

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"))
    label: Mapped[str] = mapped_column(String(120), default="")
    """For the operator: where the link was sent."""
    code_hash: Mapped[str] = mapped_column(String(64), unique=True)
    max_uses: Mapped[int]
    n_uses: Mapped[int] = mapped_column(default=0)
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id", ondelete="SET NULL"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Guest(Base):
    """A user who came by an invitation: they rate in the campaigns that they are members of, and see nothing else."""

    __tablename__ = "guest"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id", ondelete="CASCADE"), primary_key=True)
    invitation_id: Mapped[UUID | None] = mapped_column(ForeignKey("invitation.id", ondelete="SET NULL"), index=True)
    """None once the invitation is gone; a guest stays a guest."""
    created_at: Mapped[datetime]


class CampaignExample(IdMixin, Base):
    """A pair that a campaign's guidelines show, with the answer that its operator would give and why."""

    __tablename__ = "campaign_example"
    __table_args__ = (Index(None, "campaign_id", "created_at", "id"),)

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"))
    left_sample_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id", ondelete="CASCADE"))
    right_sample_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id", ondelete="CASCADE"))
    choice: Mapped[Choice] = mapped_column(enum_type(Choice))
    note: Mapped[str] = mapped_column(String(300), default="")
    created_at: Mapped[datetime]
