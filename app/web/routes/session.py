"""Signing in and out: by a one-time link, or by name and password."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from app.config import Settings
from app.domain.errors import NotAuthenticatedError
from app.services import accounts
from app.web.deps import SESSION_COOKIE, CurrentSettings, Now, WriteSession, require_same_origin, set_session_cookie
from app.web.pages import SubmittedForm
from app.web.templating import render

router = APIRouter()

_MAX_FIELD = 1000


@router.get("/login")
def login(
    request: Request,
    session: WriteSession,
    settings: CurrentSettings,
    now: Now,
    token: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """The sign-in page; with the token of a one-time link, straight in."""
    if token is None:
        return render(request, "login.html")
    try:
        secret = accounts.redeem_login_token(session, token, now, session_hours=settings.session_hours)
    except NotAuthenticatedError as error:
        return render(request, "login.html", {"error": error.detail}, status=401)
    return _signed_in(settings, secret)


@router.post("/login", dependencies=[Depends(require_same_origin)])
def login_with_password(
    request: Request, form: SubmittedForm, session: WriteSession, settings: CurrentSettings, now: Now
) -> Response:
    name, password = str(form.get("name", ""))[:_MAX_FIELD], str(form.get("password", ""))[:_MAX_FIELD]
    user = accounts.check_password(session, name, password, now)
    if user is None:
        error = "This name and password do not belong together. Try again, or ask an admin for a sign-in link."
        return render(request, "login.html", {"error": error, "name": name}, status=401)
    secret = accounts.start_web_session(session, user.id, now, session_hours=settings.session_hours)
    return _signed_in(settings, secret)


@router.post("/logout", dependencies=[Depends(require_same_origin)])
def logout(request: Request, session: WriteSession) -> Response:
    """End this browser's session, and have it forget the private images that it was allowed to cache."""
    if (secret := request.cookies.get(SESSION_COOKIE)) is not None:
        accounts.end_web_session(session, secret)
    response = RedirectResponse("/login", status_code=303, headers={"Clear-Site-Data": '"cache"'})
    response.delete_cookie(SESSION_COOKIE)
    return response


def _signed_in(settings: Settings, secret: str) -> Response:
    response = RedirectResponse("/", status_code=303)
    response.headers["Referrer-Policy"] = "no-referrer"  # the address may hold a one-time link's secret
    set_session_cookie(response, settings, secret)
    return response
