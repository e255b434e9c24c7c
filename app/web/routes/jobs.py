"""Jobs: the queue, one run as it goes on, and what an operator may ask of it."""

from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.db.queries import pages as queries
from app.domain.enums import EventKind, JobKind, JobStatus
from app.domain.errors import InvalidSpecError
from app.domain.jobs import SUPPORTED_JOB_KINDS
from app.services import alarms, checkpoints, gallery, job_control, jobs, tournaments, workers
from app.services.checkpoints import CheckpointView
from app.services.gallery import SampleView
from app.services.job_views import JobView
from app.web.deps import Blobs, CurrentOperator, Now, Queue, ReadSession, State, WriteSession
from app.web.forms import FormData
from app.web.pages import SubmittedForm
from app.web.pagination import After, encode_cursor
from app.web.routes.grids import EpochGrid, grid_of
from app.web.templating import render

router = APIRouter(prefix="/jobs")

_LOG_LINES = 200
_GRID_SEEDS = 6
_GRID_EPOCHS = 12
_TABLE_ROWS = 60

KIND_TITLES: dict[JobKind, tuple[str, str]] = {
    JobKind.SAMPLE: ("Draw samples", "A seed gives the same noise at every checkpoint, so images can be compared."),
    JobKind.REWARD_MODEL: ("Train a reward model", "Learns what raters prefer from a campaign's votes, frozen now."),
    JobKind.FINETUNE: ("Finetune", "Moves a checkpoint toward rewards by reinforcement learning (DDPO)."),
    JobKind.EVALUATE: ("Evaluate", "Mean and standard error of rewards on fixed seeds, for each checkpoint."),
    JobKind.ANALYZE: ("Analyze", "Looks into checkpoints on fixed seeds: trajectories, maps, diversity, inversion."),
    JobKind.PUSH: ("Push to a hub", "Uploads a checkpoint as a diffusers repository that others can open."),
    JobKind.PRETRAIN: ("Pretrain", "Trains a base model on a folder of images or a rendered style."),
}


@router.get("")
def list_jobs(
    request: Request,
    session: ReadSession,
    _operator: CurrentOperator,
    after: After,
    now: Now,
    status: JobStatus | None = None,
    kind: JobKind | None = None,
) -> Response:
    there = workers.list_workers(session, now)
    found = jobs.list_jobs(session, status=status, kind=kind, after=after, limit=40)
    return render(
        request,
        "jobs/index.html",
        {
            "jobs": found.items,
            "next_cursor": encode_cursor(*found.end) if found.end else None,
            "status_filter": status,
            "kind_filter": kind,
            "statuses": list(JobStatus),
            "kinds": [kind for kind in JobKind if kind in SUPPORTED_JOB_KINDS],
            "titles": KIND_TITLES,
            "workers": there,
            "unserved": workers.unserved(session, there),
            "queue": job_control.queue(session) if status in (None, JobStatus.QUEUED) and not after else [],
        },
    )


@router.get("/{job_id}")
def show_job(request: Request, session: ReadSession, _operator: CurrentOperator, job_id: UUID, now: Now) -> Response:
    job = jobs.get_job(session, job_id)
    log = queries.events_of_kind(session, job_id, EventKind.LOG, last=_LOG_LINES)
    used = queries.events_of_kind(session, job_id, EventKind.WORKER, last=1)
    is_queued = job.status is JobStatus.QUEUED
    line = job_control.queue(session) if is_queued else []
    unserved = workers.unserved(session, workers.list_workers(session, now)) if is_queued else []
    return render(
        request,
        "jobs/show.html",
        {
            "job": job,
            "title": KIND_TITLES[job.kind][0] if job.kind in KIND_TITLES else job.kind.value,
            "last_seq": queries.last_event_seq(session, job_id),
            "metrics": jobs.metrics(session, job_id, points=_TABLE_ROWS),
            "alarms": alarms.alarms_of(session, job),
            "worker": used[0].payload if used else None,
            "place": next((place for place, other in enumerate(line, 1) if other.id == job_id), None),
            "n_queued": len(line),
            "unserved": [lack for lack in unserved if lack.queue is job.queue],
            "parts": jobs.list_parts(session, job_id),
            "log": [event.payload.get("message", "") for event in log],
            "inputs": _named_inputs(session, job),
            "settings": _flat(job.spec),
            "grid": epoch_grid(session, job),
            "drawn": _drawn(session, job),
        },
    )


@router.post("/{job_id}/move")
def move(
    session: WriteSession, operator: CurrentOperator, job_id: UUID, form: SubmittedForm, now: Now
) -> RedirectResponse:
    asked = str(form.get("direction"))
    direction: job_control.Direction = "up" if asked == "up" else "down" if asked == "down" else "top"
    job_control.move(session, operator, job_id, direction, now)
    return RedirectResponse("/jobs#queue" if form.get("from") != "job" else f"/jobs/{job_id}", status_code=303)


@router.post("/{job_id}/extend")
def extend(
    session: WriteSession, queue: Queue, operator: CurrentOperator, job_id: UUID, form: SubmittedForm, now: Now
) -> RedirectResponse:
    job_control.extend(session, queue, operator, job_id, epochs=_whole(form, "epochs"), now=now)
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)


@router.post("/{job_id}/result")
def choose_result(
    session: WriteSession, operator: CurrentOperator, job_id: UUID, form: SubmittedForm, now: Now
) -> RedirectResponse:
    job_control.choose_result(session, operator, job_id, epoch=_whole(form, "epoch"), now=now)
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)


@router.post("/{job_id}/seen")
def acknowledge(session: WriteSession, operator: CurrentOperator, job_id: UUID, now: Now) -> RedirectResponse:
    job_control.acknowledge(session, operator, job_id, now)
    return RedirectResponse("/", status_code=303)


@router.post("/{job_id}/tournament")
def doubt(session: WriteSession, operator: CurrentOperator, job_id: UUID, now: Now) -> RedirectResponse:
    """Put the doubtful epochs and the last good one to people, blind, beside the base."""
    campaign = tournaments.of_doubtful(session, operator, jobs.get_job(session, job_id), now)
    return RedirectResponse(f"/campaigns/{campaign.id}", status_code=303)


def _whole(form: FormData, name: str) -> int:
    text = str(form.get(name) or "").strip()
    if not text.isdecimal():
        message = f"{name} must be a whole number."
        raise InvalidSpecError(message, [{"field": name, "message": message}])
    return int(text)


@router.post("/{job_id}/{action}")
def act(
    session: WriteSession,
    state: State,
    queue: Queue,
    blobs: Blobs,
    operator: CurrentOperator,
    job_id: UUID,
    action: Literal["cancel", "resume", "retry"],
    now: Now,
) -> Response:
    match action:
        case "cancel":
            jobs.cancel(session, operator, job_id, now)
        case "resume":
            jobs.resume(session, queue, operator, job_id, now)
        case "retry":
            jobs.retry(session, queue, state.database, blobs, operator, job_id, now)
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)


def epoch_grid(session: Session, job: JobView) -> EpochGrid | None:
    """The fixed seeds of a finetune at its base and at every epoch that was saved so far."""
    if job.kind is not JobKind.FINETUNE:
        return None
    base = checkpoints.existing(session, [UUID(job.spec["checkpoint_id"])])
    saved = queries.epochs_of_job(session, job.id, most=_GRID_EPOCHS)
    line = [*base, *checkpoints.views_of(session, saved)]
    seed = job.spec["eval"]["seed"]
    return grid_of(session, line, seeds=range(seed, seed + _GRID_SEEDS)) if len(line) > 1 else None


def _named_inputs(session: Session, job: JobView) -> list[CheckpointView]:
    """The checkpoints that the job starts from, without deleted ones."""
    ids = [job.spec.get("checkpoint_id"), job.spec.get("init_checkpoint_id"), *job.spec.get("checkpoint_ids", ())]
    return checkpoints.existing(session, [UUID(id) for id in ids if id])


def _drawn(session: Session, job: JobView) -> list[SampleView]:
    """The newest samples of the checkpoint that a sampling job draws from."""
    drawn_from = checkpoints.existing(session, [UUID(job.spec["checkpoint_id"])]) if job.kind is JobKind.SAMPLE else []
    return [
        sample for row in drawn_from for sample in gallery.list_samples(session, checkpoint_id=row.id, limit=16).items
    ]


def _flat(spec: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The spec as lines of `path`, value; what is empty is left out."""
    lines: list[tuple[str, str]] = []
    for name, value in spec.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                lines += _flat(item, f"{prefix}{name}.{index}.")
        elif value not in (None, [], {}):
            text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
            lines.append((f"{prefix}{name}", text))
    return lines
