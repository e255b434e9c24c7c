"""What routes ask for: sessions, the caller, the clock, the stores. Only these session dependencies commit."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.adapters.queue import JobQueue
from app.config import Settings
from app.domain.enums import Role
from app.domain.errors import ForbiddenError, NotAuthenticatedError
from app.services import accounts
from app.services.accounts import Principal
from app.web.state import AppState

SESSION_COOKIE = "tastemaker_session"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def get_state(request: Request) -> AppState:
    state: AppState = request.app.state.tastemaker
    return state


State = Annotated[AppState, Depends(get_state)]


def _read_session(state: State) -> Iterator[Session]:
    with state.database.reader() as session:
        yield session


def _write_session(state: State) -> Iterator[Session]:
    with state.database.writer() as session:
        yield session


# scope="function": the commit happens before the response is sent, so a commit that fails answers 500, not 200
ReadSession = Annotated[Session, Depends(_read_session, scope="function")]
WriteSession = Annotated[Session, Depends(_write_session, scope="function")]


def _now(state: State) -> datetime:
    return state.clock.now()


def _settings(state: State) -> Settings:
    return state.settings


def _blobs(state: State) -> BlobStore:
    return state.blobs


def _queue(state: State) -> JobQueue:
    return state.queue


Now = Annotated[datetime, Depends(_now)]
CurrentSettings = Annotated[Settings, Depends(_settings)]
Blobs = Annotated[BlobStore, Depends(_blobs)]
Queue = Annotated[JobQueue, Depends(_queue)]


def optional_principal(request: Request, state: State) -> Principal | None:
    """The caller by bearer token or, for browsers, by session cookie; None without either.

    A cookie alone never authorises a change that another site asked for: the request must carry this site's Origin.
    """
    header = request.headers.get("authorization")
    with state.database.reader() as session:
        if header is not None:
            scheme, _, secret = header.partition(" ")
            if scheme.lower() != "bearer" or not secret:
                raise NotAuthenticatedError("The Authorization header must read: Bearer <token>.")
            return accounts.authenticate_token(session, secret.strip(), state.clock.now())
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie is None:
            return None
        principal = accounts.authenticate_session(session, cookie, state.clock.now())
    if principal is not None and request.method not in _SAFE_METHODS:
        require_same_origin(request)
    return principal


def require_same_origin(request: Request) -> None:
    """Refuse a change that a browser sends on behalf of another site (CSRF)."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if origin is not None:
        same = urlsplit(origin).netloc == request.headers.get("host") and origin != "null"
    else:
        same = site in ("same-origin", "none")
    if not same or site in ("cross-site", "same-site"):
        raise ForbiddenError("This request came from another site; open Tastemaker itself and try again.")


def _principal(found: Annotated[Principal | None, Depends(optional_principal)]) -> Principal:
    if found is None:
        raise NotAuthenticatedError("Sign in, or send an API token: Authorization: Bearer <token>.")
    return found


def _operator(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    principal.require(Role.OPERATOR)
    return principal


def _admin(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    principal.require(Role.ADMIN)
    return principal


MaybePrincipal = Annotated[Principal | None, Depends(optional_principal)]
CurrentPrincipal = Annotated[Principal, Depends(_principal)]
CurrentOperator = Annotated[Principal, Depends(_operator)]
CurrentAdmin = Annotated[Principal, Depends(_admin)]
