"""/jobs: queued work, what it reports, and what came of it."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ConfigDict, Field, StringConstraints
from starlette.concurrency import run_in_threadpool

from app.domain.documented import Documented
from app.domain.enums import JobKind, JobStatus, Priority
from app.services import job_control, jobs, submission
from app.services.job_views import JobEventView, JobView
from app.web.api.problems import problems
from app.web.deps import Blobs, CurrentOperator, Now, Queue, ReadSession, State, ToSubmit, WriteSession
from app.web.idempotency import ApiRoute
from app.web.pagination import After, Limit, Page
from app.web.sse import stream_events

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=ApiRoute)

_EVENT_STREAM = "text/event-stream"


class JobIn(Documented):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "kind": "finetune",
                "name": "smaller files",
                "spec": {
                    "checkpoint_id": "5f0c6c1e-0000-4000-8000-000000000000",
                    "reward": {"name": "jpeg_compressibility"},
                    "preset": "critters-quick",
                    "epochs": 8,
                },
            }
        },
    )

    kind: JobKind
    spec: dict[str, Any]
    """Hyperparameters of this kind; the schemas `SampleSpec`, `FinetuneSpec` and so on list them."""
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)] | None = None
    """Made from the spec when left out."""
    priority: Priority = Priority.NORMAL
    """Workers take queued jobs of a higher priority first."""


class MoveIn(Documented):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"direction": "top"}})

    direction: job_control.Direction
    """One place up or down, or to the top. Passing a job of another priority takes on that priority."""


class ExtendIn(Documented):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"epochs": 20}})

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    """The new budget in all, not what is added."""


class ResultIn(Documented):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"epoch": 4}})

    epoch: Annotated[int, Field(ge=0, le=100_000)]
    """A saved epoch of the run; 0 goes back to the base."""


@router.get("", summary="List jobs, newest first")
def list_jobs(
    session: ReadSession,
    _caller: CurrentOperator,
    after: After,
    limit: Limit = 50,
    kind: JobKind | None = None,
    status: JobStatus | None = None,
    part_of: UUID | None = None,
) -> Page[JobView]:
    """Whole jobs; with `part_of`, the jobs that each do a part of that one."""
    found = jobs.list_jobs(session, kind=kind, status=status, part_of=part_of, after=after, limit=limit)
    return Page.of(found)


@router.post("", status_code=202, summary="Submit a job", responses=problems(409, 413))
def submit_job(body: JobIn, to: ToSubmit, response: Response) -> JobView:
    """The spec and everything that it refers to are checked now; a 422 names the field as `spec.<path>`.

    A `reward_model` job is trained on the campaign's votes as they are at this moment. An accepted job is not lost when
    the broker is away: it waits in the database.
    """
    job = submission.submit(to, body.kind, body.spec, name=body.name, priority=body.priority)
    response.headers["Location"] = job.links.self
    return job


@router.get("/{job_id}", summary="One job", responses=problems(404))
def get_job(job_id: UUID, session: ReadSession, _caller: CurrentOperator) -> JobView:
    return jobs.get_job(session, job_id)


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=problems(404, 409))
def cancel_job(job_id: UUID, session: WriteSession, caller: CurrentOperator, now: Now) -> JobView:
    """A queued job ends at once; a running one stops after saving a resumable state (watch its status)."""
    return jobs.cancel(session, caller, job_id, now)


@router.post("/{job_id}/resume", summary="Go on with a failed or cancelled job", responses=problems(404, 409))
def resume_job(job_id: UUID, session: WriteSession, queue: Queue, caller: CurrentOperator, now: Now) -> JobView:
    """From its last resumable state, or from the start where it saved none."""
    return jobs.resume(session, queue, caller, job_id, now)


@router.post("/{job_id}/retry", summary="Start a failed or cancelled job over", responses=problems(404, 409))
def retry_job(
    job_id: UUID, session: WriteSession, state: State, queue: Queue, blobs: Blobs, caller: CurrentOperator, now: Now
) -> JobView:
    return jobs.retry(session, queue, state.database, blobs, caller, job_id, now)


@router.post("/{job_id}/move", summary="Move a queued job in line", responses=problems(404, 409))
def move_job(job_id: UUID, body: MoveIn, session: WriteSession, caller: CurrentOperator, now: Now) -> JobView:
    """Workers take the job that is first in line: by priority, then by place."""
    return job_control.move(session, caller, job_id, body.direction, now)


@router.post("/{job_id}/extend", summary="Raise the budget of an ended finetune", responses=problems(404, 409))
def extend_job(
    job_id: UUID, body: ExtendIn, session: WriteSession, queue: Queue, caller: CurrentOperator, now: Now
) -> JobView:
    """It goes on from its last state. A learning rate that decays is stretched over the new length."""
    return job_control.extend(session, queue, caller, job_id, epochs=body.epochs, now=now)


@router.post("/{job_id}/result", summary="Make a saved epoch the result of a finetune", responses=problems(404, 409))
def choose_result(job_id: UUID, body: ResultIn, session: WriteSession, caller: CurrentOperator, now: Now) -> JobView:
    """For example the last good epoch before an alarm. A run that still works is asked to stop."""
    return job_control.choose_result(session, caller, job_id, epoch=body.epoch, now=now)


@router.get(
    "/{job_id}/events",
    summary="A job's log, as a list or live",
    response_model=list[JobEventView],
    responses=problems(
        404,
        429,
        besides={
            200: {"description": "The log after `after`, oldest first.", "content": {_EVENT_STREAM: {}}},
            204: {"description": "A stream only: the job has ended, and nothing more will come."},
        },
    ),
)
async def get_events(
    job_id: UUID,
    request: Request,
    state: State,
    _caller: CurrentOperator,
    after: Annotated[int, Query(ge=0, description="The last event number that the client has.")] = 0,
    limit: Annotated[
        int, Query(ge=1, le=1000, description="Of the JSON list; a stream has no end but the job's.")
    ] = 1000,
    last_event_id: Annotated[int | None, Header(ge=0, description="Wins over `after`; browsers send it.")] = None,
) -> Any:
    """With `Accept: text/event-stream` the same entries come live, each with its number as the event's id."""
    after = after if last_event_id is None else last_event_id
    if _EVENT_STREAM in request.headers.get("accept", ""):
        return await stream_events(request, state, job_id, after=after)

    def read() -> list[JobEventView]:
        with state.database.reader() as session:
            return jobs.list_events(session, job_id, after=after, limit=limit)

    return await run_in_threadpool(read)


@router.get("/{job_id}/metrics", summary="The per-epoch series as columns", responses=problems(404))
def get_metrics(
    job_id: UUID,
    session: ReadSession,
    _caller: CurrentOperator,
    points: Annotated[
        int | None, Query(ge=2, le=10_000, description="Average neighbouring epochs until there are no more rows.")
    ] = None,
) -> dict[str, list[Any]]:
    """Columns of equal length, `epoch` first; an epoch that did not report a value has null there."""
    return jobs.metrics(session, job_id, points=points)
