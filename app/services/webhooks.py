"""Webhooks: who is told of ended jobs and campaigns, and the thread that tells them.

A message is a row written with the event itself; any web process may claim and send it, signed, until it was taken or
given up. Receivers may get one twice (`Tastemaker-Delivery` is its id) and check `Tastemaker-Signature: t=...,v1=...`,
where v1 is HMAC-SHA256 of `<t>.<body>` in hex under the webhook's secret and t is in Unix seconds.
"""

import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters import outbound
from app.adapters.clock import Clock
from app.config import Settings
from app.db.models import Webhook, WebhookDelivery
from app.db.queries import webhooks as queries
from app.db.queries.keyset import Position, Slice
from app.db.session import Database
from app.domain.documented import Documented
from app.domain.enums import WebhookEvent
from app.domain.errors import NotFoundError, TastemakerError
from app.services import audit
from app.services.accounts import Principal

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 10
_LONGEST_RETRY = timedelta(hours=6)
_IN_FLIGHT = timedelta(minutes=1)
_POLL_SECONDS = 2.0


class WebhookView(Documented):
    id: UUID
    url: str
    events: list[WebhookEvent]
    created_at: datetime


class NewWebhookView(WebhookView):
    secret: str
    """Signs the messages. It is shown this once."""


class DeliveryView(Documented):
    id: UUID
    event: WebhookEvent
    created_at: datetime
    attempts: int
    delivered_at: datetime | None
    next_attempt_at: datetime | None
    """None once it was delivered or given up."""
    last_status: int | None
    last_error: str | None


def create_webhook(
    session: Session, settings: Settings, who: Principal, *, url: str, events: Sequence[WebhookEvent], now: datetime
) -> NewWebhookView:
    """Raises InvalidSpecError, ForbiddenError or UnavailableError for an address that may or can not be called."""
    outbound.resolve(outbound.parse_url(url, field="url"), allow_private=settings.webhook_allow_private)
    row = Webhook(
        url=url, events=[event.value for event in dict.fromkeys(events)], created_by=who.user_id, created_at=now
    )
    session.add(row)
    session.flush()
    audit.record(session, who.user_id, "webhook.create", row.id, now, url=url)
    return NewWebhookView(**_view(row).model_dump(), secret=secret_of(settings, row.id))


def list_webhooks(session: Session, *, after: Position | None = None, limit: int = 50) -> Slice[WebhookView]:
    """Newest first."""
    return queries.webhooks(session, after=after, limit=limit).map(_view)


def delete_webhook(session: Session, who: Principal, webhook_id: UUID, now: datetime) -> None:
    """Forget a webhook and what it has not been told yet. Raises NotFoundError."""
    row = _require(session, webhook_id)
    session.delete(row)
    audit.record(session, who.user_id, "webhook.delete", webhook_id, now, url=row.url)


def list_deliveries(
    session: Session, webhook_id: UUID, *, after: Position | None = None, limit: int = 50
) -> Slice[DeliveryView]:
    """What a webhook was told, newest first. Raises NotFoundError."""
    _require(session, webhook_id)
    found = queries.deliveries(session, webhook_id, after=after, limit=limit)
    return found.map(lambda row: DeliveryView.model_validate(row, from_attributes=True))


def secret_of(settings: Settings, webhook_id: UUID) -> str:
    """The signing key of a webhook: a function of the deployment's secret, so that a stolen database forges nothing."""
    key = settings.secret_key.get_secret_value().encode()
    return "tmwh_" + hmac.new(key, f"webhook {webhook_id}".encode(), hashlib.sha256).hexdigest()


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The value of `Tastemaker-Signature`."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def deliver_next(database: Database, settings: Settings, clock: Clock) -> bool:
    """Claim one message that is due and send it. Returns whether there was one."""
    with database.reader() as session:
        if not queries.is_due(session, clock.now()):
            return False
    with database.writer() as session:
        delivery = queries.claim_due(session, clock.now(), retry_after=_IN_FLIGHT)
        url = session.get_one(Webhook, delivery.webhook_id).url if delivery is not None else ""
    if delivery is None:
        return False
    status: int | None = None
    error: str | None = None
    try:
        status = _send(settings, delivery, url, clock.now())
        if not 200 <= status < 300:
            error = f"answered {status}"
    except TastemakerError as refused:
        error = refused.detail
    now = clock.now()
    given_up = error is not None and delivery.attempts >= MAX_ATTEMPTS
    if error is not None:
        logger.warning(
            "webhook %s, attempt %d%s: %s", delivery.webhook_id, delivery.attempts, " (the last)" * given_up, error
        )
    with database.writer() as session:
        queries.record_attempt(
            session,
            delivery,
            status=status,
            error=error,
            delivered_at=now if error is None else None,
            next_attempt_at=None if error is None or given_up else now + retry_delay(delivery.attempts),
        )
    return True


def retry_delay(attempts: int) -> timedelta:
    """How long to wait after the n-th failed attempt: 10 s, 40 s, 160 s, ... at most six hours."""
    return min(_LONGEST_RETRY, timedelta(seconds=10.0 * 4.0 ** (attempts - 1)))


class DeliveryThread:
    """Sends what is due every two seconds, beside the web server, until `stop`."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(database, settings, clock), name="webhooks", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return once the message in flight is done with."""
        self._stopping.set()
        self._thread.join()

    def _run(self, database: Database, settings: Settings, clock: Clock) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                while not self._stopping.is_set() and deliver_next(database, settings, clock):
                    pass
            except Exception:
                logger.exception("webhook delivery goes on after an error")


def _send(settings: Settings, delivery: WebhookDelivery, url: str, now: datetime) -> int:
    target = outbound.parse_url(url, field="url")
    address = outbound.resolve(target, allow_private=settings.webhook_allow_private)
    message = {
        "id": str(delivery.id),
        "event": delivery.event,
        "created_at": delivery.created_at.isoformat(),
        **delivery.payload,
    }
    body = json.dumps(message).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Tastemaker",
        "Tastemaker-Event": delivery.event,
        "Tastemaker-Delivery": str(delivery.id),
        "Tastemaker-Signature": sign(secret_of(settings, delivery.webhook_id), int(now.timestamp()), body),
    }
    return outbound.post(target, address, body, headers)


def _require(session: Session, webhook_id: UUID) -> Webhook:
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise NotFoundError(f"There is no webhook {webhook_id}; GET /api/v1/webhooks lists them.")
    return row


def _view(row: Webhook) -> WebhookView:
    return WebhookView.model_validate(row, from_attributes=True)
