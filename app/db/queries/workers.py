"""SQL of the workers that are there, and of queues that none of them serves."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db.models import Job, Worker
from app.db.queries.bulk import insert_or_update
from app.db.queries.jobs import has_no_open_part
from app.domain.enums import JobStatus, WorkQueue


def record(
    session: Session,
    *,
    name: str,
    version: str,
    queues: Sequence[str],
    concurrency: int,
    refusal: str | None,
    now: datetime,
) -> None:
    """Add or renew a worker's row; when it started stays."""
    started = session.scalar(select(Worker.started_at).where(Worker.name == name))
    row = {
        "name": name,
        "version": version,
        "queues": list(queues),
        "concurrency": concurrency,
        "started_at": started or now,
        "seen_at": now,
        "refusal": refusal,
    }
    insert_or_update(session, Worker, [row])


def remove(session: Session, name: str) -> None:
    session.execute(delete(Worker).where(Worker.name == name))


def forget(session: Session, *, seen_before: datetime) -> None:
    session.execute(delete(Worker).where(Worker.seen_at < seen_before))


def workers(session: Session) -> Sequence[Worker]:
    return session.scalars(select(Worker).order_by(Worker.started_at, Worker.name)).all()


def waiting_by_queue(session: Session) -> dict[WorkQueue, int]:
    """How many jobs wait for a worker in each queue; queues without any are left out, and so are jobs that wait for
    their parts."""
    rows = session.execute(
        select(Job.queue, func.count()).where(Job.status == JobStatus.QUEUED, has_no_open_part()).group_by(Job.queue)
    )
    return dict(rows.tuples().all())
