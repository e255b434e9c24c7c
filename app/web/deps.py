"""What routes ask for: sessions, the caller, the clock, the stores. Only these session dependencies commit."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

from anyio import CancelScope
from fastapi import Depends, Request, Response
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.adapters.blobs import BlobStore
from app.adapters.queue import JobQueue
from app.config import Settings
from app.domain.enums import Role
from app.domain.errors import ForbiddenError, NotAuthenticatedError
from app.services import accounts
from app.services.accounts import Principal
from app.services.submission import Submission
from app.web.idempotency import claim_key
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


def _lookup_session(state: State) -> Iterator[Session]:
    with state.database.lookup() as session:
        yield session


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


_bearer = HTTPBearer(auto_error=False, bearerFormat="tm_...", description="A token from `POST /api/v1/tokens`.")


async def optional_principal(
    request: Request, state: State, _documented: Annotated[object, Depends(_bearer)]
) -> Principal | None:
    """The caller by bearer token or, for browsers, by session cookie; None without either.

    A cookie alone never authorises a change that another site asked for: the request must carry this site's Origin.
    """
    principal = await run_in_threadpool(identify, request, state)
    if principal is not None and principal.token_id is not None and principal.use_is_news:
        async with state.write_slots:
            await run_in_threadpool(_note_token_use, state, principal.token_id)
    if principal is not None and principal.token_id is None and request.method not in _SAFE_METHODS:
        require_same_origin(request)
    return principal


def identify(request: Request, state: AppState) -> Principal | None:
    """Who sends this request, as of now.

    Raises:
        NotAuthenticatedError: the Authorization header is malformed, or its token is unknown, revoked or expired.
    """
    header = request.headers.get("authorization")
    cookie = request.cookies.get(SESSION_COOKIE)
    if header is None and cookie is None:
        return None
    with state.database.lookup() as session:
        if header is None:
            return accounts.authenticate_session(session, cookie or "", state.clock.now())
        scheme, _, secret = header.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise NotAuthenticatedError("The Authorization header must read: Bearer <token>.")
        return accounts.authenticate_token(session, secret.strip(), state.clock.now())


def _note_token_use(state: AppState, token_id: UUID) -> None:
    with state.database.writer() as session:
        accounts.note_token_use(session, token_id, state.clock.now())


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


def _rater(found: Annotated[Principal | None, Depends(optional_principal)]) -> Principal:
    if found is None:
        raise NotAuthenticatedError("Sign in, or send an API token: Authorization: Bearer <token>.")
    return found


def set_session_cookie(response: Response, settings: Settings, secret: str) -> None:
    """Sign this browser in."""
    response.set_cookie(
        SESSION_COOKIE,
        secret,
        max_age=settings.session_hours * 3600,
        httponly=True,
        samesite="lax",
        secure=(settings.base_url or "").startswith("https://"),
    )


def external_url(request: Request, settings: Settings, path: str) -> str:
    """A path as an address for other people: under `base_url` where that is set."""
    return (settings.base_url or str(request.base_url)).rstrip("/") + path


def _principal(rater: Annotated[Principal, Depends(_rater)]) -> Principal:
    if rater.guest:
        raise ForbiddenError("You came by an invitation, which opens the rating page and nothing else.")
    return rater


def _operator(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    principal.require(Role.OPERATOR)
    return principal


def _admin(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    principal.require(Role.ADMIN)
    return principal


async def _write_session(
    request: Request, state: State, caller: Annotated[Principal | None, Depends(optional_principal)]
) -> AsyncIterator[Session]:
    async with state.write_slots:
        session = state.database.new_session(write=True)
        try:
            if caller is not None:
                await run_in_threadpool(claim_key, request, session, caller.user_id, state.clock.now())
            yield session
            await run_in_threadpool(session.commit)
        finally:
            with CancelScope(shield=True):
                await run_in_threadpool(session.close)


# scope="function": the commit happens before the response is sent, so a commit that fails answers 500, not 200
ReadSession = Annotated[Session, Depends(_read_session, scope="function")]
LookupSession = Annotated[Session, Depends(_lookup_session, scope="function")]
"""For a route that reads one row, often."""
WriteSession = Annotated[Session, Depends(_write_session, scope="function")]


MaybePrincipal = Annotated[Principal | None, Depends(optional_principal)]
CurrentPrincipal = Annotated[Principal, Depends(_principal)]
CurrentRater = Annotated[Principal, Depends(_rater)]
"""Whoever is signed in, guests included: for what rating takes, and nothing else."""
CurrentOperator = Annotated[Principal, Depends(_operator)]
CurrentAdmin = Annotated[Principal, Depends(_admin)]


def _submission(
    session: WriteSession, settings: CurrentSettings, blobs: Blobs, queue: Queue, who: CurrentOperator, now: Now
) -> Submission:
    return Submission(session=session, settings=settings, blobs=blobs, queue=queue, who=who, now=now)


ToSubmit = Annotated[Submission, Depends(_submission)]
"""What a service needs to queue jobs for the caller, an operator."""
