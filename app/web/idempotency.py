"""`Idempotency-Key` for every POST of the API: the same call sent twice acts once and gets the same answer.

How to use it: make the router with `APIRouter(route_class=ApiRoute)` and do the work in a `WriteSession`; nothing else.
`WriteSession` claims the key in the transaction of the work itself, and `ApiRoute` stores the answer in that same
transaction just before it commits. So an answer is kept exactly when its effect is; a refused call (any 4xx or 5xx that
is raised) rolls both back and may be sent again. A concurrent duplicate waits for the first and then gets its answer.
Keys belong to a user and are kept for a day. A call without a signed-in user ignores the header.
"""

import hashlib
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.db.models import IdempotencyKey
from app.db.queries import idempotency as queries
from app.domain.errors import ConflictError, InvalidSpecError

HEADER = "Idempotency-Key"
KEPT_FOR = timedelta(days=1)
_KEPT_HEADERS = ("content-type", "location")


class AlreadyAnsweredError(Exception):
    """Leaves the request's dependencies early: this call was answered before, and `response` is that answer."""

    def __init__(self, response: Response) -> None:
        super().__init__("answered before")
        self.response = response


class ApiRoute(APIRoute):
    """A route of the API. See the module's docstring."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            if _wants_once(request):
                request.state.request_hash = _hash_request(request, await request.body())
            try:
                response = await handle(request)
            except AlreadyAnsweredError as earlier:
                return earlier.response
            claim: _Claim | None = getattr(request.state, "idempotency_claim", None)
            if claim is not None:
                secret = getattr(request.state, "answer_is_secret", False)
                await run_in_threadpool(claim.keep, response, secret=secret)
            return response

        return handle_once


def answer_is_secret(request: Request) -> None:
    """A dependency of calls whose answer must not be stored: a repeat acts no second time, but is refused (409)."""
    request.state.answer_is_secret = True


def claim_key(request: Request, session: Session, user_id: UUID, now: datetime) -> None:
    """Claim the request's key, if it is a POST that has one, in `session`'s transaction.

    Raises:
        AlreadyAnsweredError: the same call was answered before.
        ConflictError: the key was used for a different call, or its answer held a secret.
        InvalidSpecError: the key is empty, too long, or not printable ASCII.
    """
    if not _wants_once(request):
        return
    key = request.headers[HEADER]
    if not 1 <= len(key) <= 200 or not key.isascii() or not key.isprintable():
        message = "Use 1 to 200 printable ASCII characters, for example a UUID."
        raise InvalidSpecError(message, [{"field": HEADER, "message": message}])
    queries.forget_older_than(session, user_id, now - KEPT_FOR)
    request_hash: str = request.state.request_hash
    claimed = queries.claim_key(session, user_id, key, request_hash=request_hash, now=now)
    if claimed is not None:
        request.state.idempotency_claim = _Claim(session, claimed)
        return
    kept = queries.kept_answer(session, user_id, key)
    if kept.request_hash != request_hash:
        raise ConflictError(f"This {HEADER} was used for a different call; make a new key for every new call.")
    if kept.status == 0:
        raise ConflictError(
            "This call was made before, and its answer held a secret that was not kept. If you did not receive it, "
            "revoke what was made and call again with a new key."
        )
    raise AlreadyAnsweredError(_replay(kept))


class _Claim:
    """A row taken in a transaction that has not ended, waiting for the answer. Status 0 stays where it was secret."""

    def __init__(self, session: Session, row: IdempotencyKey) -> None:
        self._session = session
        self._row = row

    def keep(self, response: Response, *, secret: bool) -> None:
        if not secret:
            self._row.status = response.status_code
            self._row.headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
            self._row.body = bytes(response.body)
        self._session.flush()


def _wants_once(request: Request) -> bool:
    return request.method == "POST" and HEADER in request.headers


def _hash_request(request: Request, body: bytes) -> str:
    target = f"{request.url.path}?{request.url.query}\n".encode()
    return hashlib.sha256(target + body).hexdigest()


def _replay(kept: IdempotencyKey) -> Response:
    return Response(kept.body, status_code=kept.status, headers={**kept.headers, "Idempotency-Replayed": "true"})
