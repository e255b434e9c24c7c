"""Invitation links: made on the campaign's page, opened at /i/{code}. And the campaign's example pairs."""

from datetime import datetime, timedelta
from uuid import UUID

import segno
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.config import Settings
from app.db.queries import campaigns as campaign_queries
from app.domain.enums import Choice
from app.domain.errors import GoneError, InvalidSpecError, NotFoundError
from app.services import examples, invitations
from app.services.accounts import Principal
from app.web.deps import (
    CurrentOperator,
    CurrentSettings,
    MaybePrincipal,
    Now,
    ReadSession,
    WriteSession,
    external_url,
    require_same_origin,
    set_session_cookie,
)
from app.web.pages import SubmittedForm
from app.web.templating import render

router = APIRouter()

_MAX_DAYS = invitations.LONGEST.days
_MAX_USES = 10_000


@router.get("/i/{code}")
def open_invitation(request: Request, session: ReadSession, principal: MaybePrincipal, code: str, now: Now) -> Response:
    """The door of a campaign. Who came in before in this browser goes straight through."""
    if principal is not None and (campaign_id := invitations.campaign_of_member(session, code, principal)):
        return _private(RedirectResponse(f"/rate/{campaign_id}", status_code=303))
    return _door(request, session, principal, code, now)


@router.post("/i/{code}", dependencies=[Depends(require_same_origin)])
def accept_invitation(
    request: Request,
    session: WriteSession,
    principal: MaybePrincipal,
    settings: CurrentSettings,
    code: str,
    form: SubmittedForm,
    now: Now,
) -> Response:
    name = str(form.get("name") or "")[:200]
    try:
        if principal is not None and not (principal.guest and name):
            opened = invitations.accept_as(session, code, principal, now)
            return _private(RedirectResponse(f"/rate/{opened.campaign_id}", status_code=303))
        opened, secret = invitations.accept_as_guest(session, code, name, now, session_hours=settings.session_hours)
    except InvalidSpecError as error:
        return _door(request, session, principal, code, now, name=name, refused=error.detail)
    except (NotFoundError, GoneError):
        return _door(request, session, principal, code, now)
    response = RedirectResponse(f"/rate/{opened.campaign_id}", status_code=303)
    set_session_cookie(response, settings, secret)
    return _private(response)


@router.post("/campaigns/{campaign_id}/invitations")
def create_invitation(
    request: Request,
    session: WriteSession,
    operator: CurrentOperator,
    settings: CurrentSettings,
    campaign_id: UUID,
    form: SubmittedForm,
    now: Now,
) -> Response:
    """Answers with a page of its own: the link is shown this once, and a redirect would have to carry it."""
    made = invitations.create_invitation(
        session,
        operator,
        campaign_id,
        label=str(form.get("label") or "").strip()[:120],
        max_uses=_whole(form.get("max_uses"), 1, _MAX_USES, field="max_uses"),
        expires_at=now + timedelta(days=_whole(form.get("days"), 1, _MAX_DAYS, field="days")),
        now=now,
    )
    url = external_url(request, settings, f"/i/{made.code}")
    campaign = campaign_queries.get_campaign(session, campaign_id)
    context = {
        "campaign": campaign,
        "invitation": made,
        "url": url,
        "qr": segno.make(url, error="m").svg_data_uri(scale=6, border=4, light="#fff"),
        "only_here": _is_loopback(request, settings),
    }
    return render(request, "campaigns/invitation.html", context)


@router.post("/campaigns/{campaign_id}/invitations/{invitation_id}/revoke")
def revoke_invitation(
    session: WriteSession,
    operator: CurrentOperator,
    campaign_id: UUID,
    invitation_id: UUID,
    form: SubmittedForm,
    now: Now,
) -> Response:
    sign_out = form.get("sign_out") is not None
    invitations.revoke_invitation(session, operator, campaign_id, invitation_id, now, sign_out=sign_out)
    return RedirectResponse(f"/campaigns/{campaign_id}#invitations", status_code=303)


@router.post("/campaigns/{campaign_id}/examples")
def add_example(
    session: WriteSession, operator: CurrentOperator, campaign_id: UUID, form: SubmittedForm, now: Now
) -> Response:
    choice = str(form.get("choice") or "")
    if choice not in set(Choice):
        raise _invalid("choice", "Say what a rater should answer.")
    examples.add_example_by_seeds(
        session,
        operator,
        campaign_id,
        checkpoint_id=_id(form.get("checkpoint_id"), field="checkpoint_id"),
        seeds=(_whole(form.get("left"), 0, 2**62, field="left"), _whole(form.get("right"), 0, 2**62, field="right")),
        choice=Choice(choice),
        note=str(form.get("note") or "").strip()[:300],
        now=now,
    )
    return RedirectResponse(f"/campaigns/{campaign_id}#examples", status_code=303)


@router.post("/campaigns/{campaign_id}/examples/{example_id}/remove")
def remove_example(
    session: WriteSession, operator: CurrentOperator, campaign_id: UUID, example_id: UUID, now: Now
) -> Response:
    examples.remove_example(session, operator, campaign_id, example_id, now)
    return RedirectResponse(f"/campaigns/{campaign_id}#examples", status_code=303)


def _door(
    request: Request,
    session: Session,
    principal: Principal | None,
    code: str,
    now: datetime,
    *,
    name: str = "",
    refused: str | None = None,
) -> Response:
    try:
        opened = invitations.open_invitation(session, code, now)
    except (NotFoundError, GoneError) as error:
        ended = {"detail": error.detail, "status": error.status}
        return _private(render(request, "invitation/ended.html", ended, status=error.status))
    context = {"question": opened.question, "name": name, "refused": refused, "longest": invitations.LONGEST_NAME}
    return _private(render(request, "invitation/index.html", context, status=422 if refused else 200))


def _private(response: Response) -> Response:
    """The address holds the code. Under this policy it stands in no Referer, not even in those to this server."""
    response.headers["Referrer-Policy"] = "strict-origin"
    return response


def _is_loopback(request: Request, settings: Settings) -> bool:
    return settings.base_url is None and (request.url.hostname or "") in ("127.0.0.1", "localhost", "::1")


def _whole(value: object, low: int, high: int, *, field: str) -> int:
    text = str(value or "").strip()
    if not text.isdecimal() or not low <= int(text) <= high:
        raise _invalid(field, f"{field} must be a whole number from {low} to {high}.")
    return int(text)


def _id(value: object, *, field: str) -> UUID:
    try:
        return UUID(str(value))
    except ValueError as error:
        raise _invalid(field, f"{field} is not an id.") from error


def _invalid(field: str, message: str) -> InvalidSpecError:
    return InvalidSpecError(message, [{"field": field, "message": message}])
