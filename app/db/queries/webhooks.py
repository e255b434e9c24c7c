"""SQL of webhooks: the outbox is filled in the transaction of the event and emptied by whoever claims a message."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.models import Campaign, Job, Webhook, WebhookDelivery
from app.db.queries.keyset import Position, Slice, newest_first
from app.domain.enums import WebhookEvent


def announce_job_end(session: Session, job_id: UUID, now: datetime) -> None:
    """Tell who asked for it that a job has ended, once the transaction commits."""
    if not _wants(session, WebhookEvent.JOB_ENDED):
        return
    job = session.get_one(Job, job_id, populate_existing=True)
    if job.parent_id is not None:
        return  # nobody asked for a part
    about = {
        "id": str(job.id),
        "kind": job.kind.value,
        "name": job.name,
        "status": job.status.value,
        "error": job.error,
        "attempts": job.attempts,
    }
    _announce(session, WebhookEvent.JOB_ENDED, {"job": about}, now)


def announce_campaign_end(session: Session, campaign: Campaign, now: datetime) -> None:
    """Tell who asked for it that a campaign takes no more votes, once the transaction commits."""
    about = {"id": str(campaign.id), "name": campaign.name, "status": campaign.status.value}
    _announce(session, WebhookEvent.CAMPAIGN_ENDED, {"campaign": about}, now)


def webhooks(session: Session, *, after: Position | None, limit: int) -> Slice[Webhook]:
    return newest_first(session, select(Webhook), (Webhook.created_at, Webhook.id), after=after, limit=limit)


def deliveries(session: Session, webhook_id: UUID, *, after: Position | None, limit: int) -> Slice[WebhookDelivery]:
    statement = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    key = (WebhookDelivery.created_at, WebhookDelivery.id)
    return newest_first(session, statement, key, after=after, limit=limit)


def is_due(session: Session, now: datetime) -> bool:
    return session.scalar(select(WebhookDelivery.id).where(WebhookDelivery.next_attempt_at <= now).limit(1)) is not None


def claim_due(session: Session, now: datetime, *, retry_after: timedelta) -> WebhookDelivery | None:
    """The message that has waited longest, reserved for the caller; another may have it after `retry_after`.

    None where none is due or another process was quicker.
    """
    due = session.execute(
        select(WebhookDelivery.id, WebhookDelivery.attempts)
        .where(WebhookDelivery.next_attempt_at <= now)
        .order_by(WebhookDelivery.next_attempt_at)
        .limit(1)
    ).first()
    if due is None:
        return None
    return session.scalar(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == due.id,
            WebhookDelivery.attempts == due.attempts,
            WebhookDelivery.next_attempt_at <= now,
        )
        .values(attempts=WebhookDelivery.attempts + 1, next_attempt_at=now + retry_after)
        .returning(WebhookDelivery)
        .execution_options(populate_existing=True)
    )


def record_attempt(
    session: Session,
    delivery: WebhookDelivery,
    *,
    status: int | None,
    error: str | None,
    delivered_at: datetime | None,
    next_attempt_at: datetime | None,
) -> None:
    """Write down how the claimed attempt ended; nothing where it has been claimed again meanwhile."""
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery.id, WebhookDelivery.attempts == delivery.attempts)
        .values(last_status=status, last_error=error, delivered_at=delivered_at, next_attempt_at=next_attempt_at)
        .execution_options(synchronize_session=False)
    )


def _announce(session: Session, event: WebhookEvent, about: Mapping[str, Any], now: datetime) -> None:
    session.add_all(
        WebhookDelivery(
            webhook_id=webhook_id, event=event.value, payload=dict(about), next_attempt_at=now, created_at=now
        )
        for webhook_id in _wants(session, event)
    )
    session.flush()


def _wants(session: Session, event: WebhookEvent) -> list[UUID]:
    return [id for id, events in session.execute(select(Webhook.id, Webhook.events)) if event.value in events]
