"""One's own tokens, and for admins everybody's: users, their tokens, one-time sign-in links."""

from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.domain.enums import Role
from app.domain.errors import NotFoundError, TastemakerError
from app.services import people
from app.services.accounts import Principal
from app.web.deps import CurrentAdmin, CurrentPrincipal, CurrentSettings, Now, ReadSession, WriteSession, external_url
from app.web.pages import SubmittedForm
from app.web.templating import render

router = APIRouter()

_LISTED = 200


@router.get("/account")
def account(request: Request, session: ReadSession, principal: CurrentPrincipal) -> Response:
    return _account(request, session, principal)


@router.post("/account/tokens")
def create_own_token(
    request: Request, session: WriteSession, principal: CurrentPrincipal, form: SubmittedForm, now: Now
) -> Response:
    """Answers with the page itself: the secret is shown this once, and a redirect would have to carry it."""
    name = str(form.get("name") or "").strip()[:120] or "token"
    token = people.create_token(
        session, principal, user_id=None, name=name, role=principal.role, expires_at=None, now=now
    )
    return _account(request, session, principal, secret=token.token)


@router.post("/account/tokens/{token_id}/revoke")
def revoke_own_token(session: WriteSession, principal: CurrentPrincipal, token_id: UUID, now: Now) -> Response:
    own = people.list_tokens(session, user_id=principal.user_id, limit=_LISTED).items
    if token_id not in {token.id for token in own}:
        raise NotFoundError("That token is not one of yours.")
    people.revoke_token(session, principal, token_id, now)
    return RedirectResponse("/account", status_code=303)


@router.get("/admin")
def admin(request: Request, session: ReadSession, _admin: CurrentAdmin) -> Response:
    return _admin_page(request, session)


@router.post("/admin/users")
def create_user(
    request: Request, session: WriteSession, admin: CurrentAdmin, form: SubmittedForm, now: Now
) -> Response:
    name, password = str(form.get("name") or "").strip(), str(form.get("password") or "")
    role = str(form.get("role") or "")
    try:
        if not 1 <= len(name) <= 120 or role not in set(Role):
            return _admin_page(request, session, refused="A user needs a name of at most 120 characters and a role.")
        people.create_user(session, admin, name=name, role=Role(role), password=password or None, now=now)
    except TastemakerError as error:
        return _admin_page(request, session, refused=error.detail)
    return RedirectResponse("/admin", status_code=303)


@router.post("/admin/users/{user_id}/disable")
def disable_user(session: WriteSession, admin: CurrentAdmin, user_id: UUID, now: Now) -> Response:
    people.disable_user(session, admin, user_id, now)
    return RedirectResponse("/admin", status_code=303)


@router.post("/admin/users/{user_id}/link")
def create_login_link(
    request: Request, session: WriteSession, admin: CurrentAdmin, settings: CurrentSettings, user_id: UUID, now: Now
) -> Response:
    secret = people.create_login_link(session, admin, user_id, now)
    link = external_url(request, settings, f"/login?token={secret}")
    return _admin_page(request, session, link=link, link_for=people.get_user(session, user_id).name)


@router.post("/admin/tokens/{token_id}/revoke")
def revoke_token(session: WriteSession, admin: CurrentAdmin, token_id: UUID, now: Now) -> Response:
    people.revoke_token(session, admin, token_id, now)
    return RedirectResponse("/admin#tokens", status_code=303)


def _account(request: Request, session: Session, principal: Principal, *, secret: str | None = None) -> Response:
    tokens = people.list_tokens(session, user_id=principal.user_id, limit=_LISTED).items
    return render(request, "account/index.html", {"tokens": tokens, "secret": secret})


def _admin_page(
    request: Request,
    session: Session,
    *,
    refused: str | None = None,
    link: str | None = None,
    link_for: str | None = None,
) -> Response:
    context = {
        "users": people.list_users(session, limit=_LISTED).items,
        "tokens": people.list_tokens(session, limit=_LISTED).items,
        "roles": list(Role),
        "refused": refused,
        "link": link,
        "link_for": link_for,
    }
    return render(request, "admin/index.html", context, status=422 if refused else 200)
