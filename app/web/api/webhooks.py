"""/webhooks: who is told when jobs and campaigns end (admins only)."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from app.domain.enums import WebhookEvent
from app.services import webhooks
from app.services.webhooks import DeliveryView, NewWebhookView, WebhookView
from app.web.api.problems import problems
from app.web.deps import CurrentAdmin, CurrentSettings, Now, ReadSession, WriteSession
from app.web.idempotency import ApiRoute, answer_is_secret
from app.web.pagination import After, Limit, Page

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=ApiRoute)


class WebhookIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"url": "https://example.org/hook", "events": ["job.ended"]}}
    )

    url: Annotated[str, Field(min_length=1, max_length=2000)]
    events: Annotated[list[WebhookEvent], Field(min_length=1, max_length=10)] = list(WebhookEvent)


@router.get("", summary="List webhooks, newest first")
def list_webhooks(session: ReadSession, _caller: CurrentAdmin, after: After, limit: Limit = 50) -> Page[WebhookView]:
    return Page.of(webhooks.list_webhooks(session, after=after, limit=limit))


@router.post(
    "",
    status_code=201,
    summary="Make a webhook",
    responses=problems(409, 503),
    dependencies=[Depends(answer_is_secret)],
)
def create_webhook(
    body: WebhookIn,
    session: WriteSession,
    caller: CurrentAdmin,
    settings: CurrentSettings,
    now: Now,
    response: Response,
) -> NewWebhookView:
    """Messages are POSTed as JSON and signed: `Tastemaker-Signature: t=<unix seconds>,v1=<hex>`, where v1 is
    HMAC-SHA256 of `<t>.<body>` under the secret that this answer shows once. What is not answered with 2xx is sent
    again, ten times in about a day; a message may come twice, `Tastemaker-Delivery` names it. Private and local
    addresses are refused (403) unless the deployment allows them.
    """
    made = webhooks.create_webhook(session, settings, caller, url=body.url, events=body.events, now=now)
    response.headers["Location"] = f"/api/v1/webhooks/{made.id}/deliveries"
    return made


@router.delete("/{webhook_id}", status_code=204, summary="Delete a webhook", responses=problems(404))
def delete_webhook(webhook_id: UUID, session: WriteSession, caller: CurrentAdmin, now: Now) -> None:
    webhooks.delete_webhook(session, caller, webhook_id, now)


@router.get("/{webhook_id}/deliveries", summary="What a webhook was told", responses=problems(404))
def list_deliveries(
    webhook_id: UUID, session: ReadSession, _caller: CurrentAdmin, after: After, limit: Limit = 50
) -> Page[DeliveryView]:
    return Page.of(webhooks.list_deliveries(session, webhook_id, after=after, limit=limit))
