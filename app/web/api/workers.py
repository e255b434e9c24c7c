"""/workers: who is there to take jobs."""

from fastapi import APIRouter

from app.db.queries.keyset import Slice
from app.services import workers
from app.services.workers import WorkerView
from app.web.deps import CurrentOperator, Now, ReadSession
from app.web.idempotency import ApiRoute
from app.web.pagination import Page

router = APIRouter(prefix="/workers", tags=["jobs"], route_class=ApiRoute)


@router.get("", summary="The workers that are there, or were within the last hour")
def list_workers(session: ReadSession, _caller: CurrentOperator, now: Now) -> Page[WorkerView]:
    """All on one page, longest there first. A worker that may not work here is listed with the reason (`refusal`)."""
    return Page.of(Slice(workers.list_workers(session, now), None))
