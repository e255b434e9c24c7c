"""Addresses that want to hear of ended jobs and campaigns, and the outbox of what they are told."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, IdMixin, JsonType


class Webhook(IdMixin, Base):
    """An address that is called. Its signing key is derived from its id and the deployment's secret, not stored."""

    __tablename__ = "webhook"
    __table_args__ = (Index(None, "created_at", "id"),)

    url: Mapped[str] = mapped_column(String(2000))
    events: Mapped[list[str]] = mapped_column(JsonType)
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id", ondelete="SET NULL"))
    created_at: Mapped[datetime]


class WebhookDelivery(IdMixin, Base):
    """One message to one address, written in the transaction of what it tells of."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (Index(None, "next_attempt_at"), Index(None, "webhook_id", "created_at", "id"))

    webhook_id: Mapped[UUID] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(40))
    payload: Mapped[dict[str, Any]]
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None]
    """When to try (again); none once it was delivered or given up. While a process tries, when another may."""
    delivered_at: Mapped[datetime | None]
    last_status: Mapped[int | None]
    """HTTP status of the last answer."""
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
