"""A job's log as server-sent events: replayed from any number, then followed until the job ends."""

import json
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from uuid import UUID

import anyio
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.domain.enums import Role
from app.domain.errors import NotAuthenticatedError, TastemakerError
from app.services import jobs
from app.services.job_views import JobEventView
from app.web.deps import identify
from app.web.state import AppState

_RECONNECT_MS = 2000
_ASK_AGAIN_SECONDS = 5.0  # how long an idle stream may go on without asking whether its caller may still see it


async def stream_events(request: Request, state: AppState, job_id: UUID, *, after: int) -> Response:
    """Follow a job. 204 where nothing can come any more, which tells a browser's EventSource not to reconnect.

    Raises:
        NotFoundError: there is no such job.
        RateLimitedError: too many streams are open.
    """
    first, is_over = await run_in_threadpool(_read, request, state, job_id, after)
    if is_over and not first:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    state.event_streams.acquire()
    return StreamingResponse(
        _follow(request, state, job_id, after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},  # nginx would hold events back
    )


async def _follow(request: Request, state: AppState, job_id: UUID, after: int) -> AsyncIterator[str]:
    streams, pulse = state.event_streams, state.job_pulse
    try:
        yield f"retry: {_RECONNECT_MS}\n\n"
        last_sent = last_read = time.monotonic()
        with pulse.following(job_id):
            while not streams.closing:
                try:
                    events, is_over = await run_in_threadpool(_read, request, state, job_id, after)
                except TastemakerError:  # the caller may no longer see this; the reconnect is told why
                    return
                last_read = time.monotonic()
                for event in events:
                    yield _spell(event)
                    after, last_sent = event.seq, last_read
                if is_over:
                    return
                while not events and not streams.closing:
                    if time.monotonic() - last_sent >= streams.heartbeat_seconds:
                        yield ": still here\n\n"
                        last_sent = time.monotonic()
                    await anyio.sleep(streams.poll_seconds)
                    is_due = time.monotonic() - last_read >= _ASK_AGAIN_SECONDS
                    if is_due or await pulse.has_news(job_id, after, max_age=streams.poll_seconds):
                        break
    finally:
        streams.release()


def _read(request: Request, state: AppState, job_id: UUID, after: int) -> tuple[list[JobEventView], bool]:
    """The next events, for a caller who is asked for a valid token every time: a stream outlives a revocation else."""
    principal = identify(request, state)
    if principal is None:
        raise NotAuthenticatedError("The session of this stream has ended; sign in again.")
    principal.require(Role.OPERATOR)
    with state.database.reader() as session:
        return jobs.follow(session, job_id, after=after)


def _spell(event: JobEventView) -> str:
    data = json.dumps(event.model_dump(mode="json"), separators=(",", ":"))  # JSON has no raw line breaks
    return f"id: {event.seq}\nevent: {event.kind.value}\ndata: {data}\n\n"
