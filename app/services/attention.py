"""What waits for a person: jobs that failed or paused, runs with alarms, campaigns with all their votes."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.queries import pages as queries
from app.domain.enums import JobKind, JobStatus
from app.services.alarms import alarms_of_jobs
from app.services.job_views import JobView, view_job

_FINETUNES_LOOKED_AT = 8
_MOST_ITEMS = 12


@dataclass(frozen=True)
class Matter:
    """One thing to look at. `job_id` is set where it can be put aside."""

    kind: Literal["failed", "paused", "alarm", "campaign"]
    title: str
    text: str
    href: str
    action: str
    job_id: UUID | None = None


def matters(session: Session) -> list[Matter]:
    """The gravest kind first, the newest of each first."""
    found = [*_ended_badly(session), *_alarms(session), *_full_campaigns(session)]
    return found[:_MOST_ITEMS]


def _ended_badly(session: Session) -> list[Matter]:
    rows = queries.jobs_by_status(session, [JobStatus.FAILED, JobStatus.CANCELLED], limit=40)
    jobs = [job for job in map(view_job, rows) if not job.needs_nobody]
    failed = [_of_job("failed", job, "Look") for job in jobs if job.status is JobStatus.FAILED]
    paused = [_of_job("paused", job, "Decide") for job in jobs if job.paused]
    return paused + failed


def _alarms(session: Session) -> list[Matter]:
    """Runs with alarms that nobody has acted on: no earlier epoch was chosen, and nobody put them aside."""
    rows = queries.newest_jobs(session, JobKind.FINETUNE, limit=_FINETUNES_LOOKED_AT)
    jobs = [job for job in map(view_job, rows) if not (job.paused or job.needs_nobody or "chosen_epoch" in job.result)]
    alarms = alarms_of_jobs(session, jobs)
    return [
        Matter(
            "alarm", job.name, f"Epoch {alarms[job.id][0].epoch}: {alarms[job.id][0].message}", f"/jobs/{job.id}",
            "Decide", job.id,
        )
        for job in jobs
        if alarms[job.id]
    ]  # fmt: skip


def _full_campaigns(session: Session) -> list[Matter]:
    return [
        Matter(
            "campaign",
            campaign.name,
            f"All {n} votes are in.",
            f"/campaigns/{campaign.id}",
            "See the result",
        )
        for campaign, n in queries.full_campaigns(session, limit=_MOST_ITEMS)
    ]


def _of_job(kind: Literal["failed", "paused"], job: JobView, action: str) -> Matter:
    return Matter(kind, job.name, job.error or "", f"/jobs/{job.id}", action, job.id)
