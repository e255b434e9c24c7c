"""Who is there to take jobs, and jobs that nobody who is there can take."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.db.models import Worker
from app.db.queries import workers as queries
from app.domain.documented import Documented
from app.domain.enums import WorkQueue

_GONE_AFTER = timedelta(seconds=30)
_SHOWN_FOR = timedelta(hours=1)


class WorkerView(Documented):
    name: str
    """Host and process id."""
    version: str
    """Which Tastemaker it is."""
    queues: list[WorkQueue]
    """Which jobs it takes."""
    concurrency: int
    """How many jobs it runs at once."""
    started_at: datetime
    seen_at: datetime
    """When it last said that it is there; it does so every two seconds."""
    is_there: bool
    """Whether it was seen within the last 30 seconds."""
    refusal: str | None
    """Why it takes no jobs, for example because it is older than the database."""


class UnservedQueue(Documented):
    queue: WorkQueue
    jobs: int
    """How many wait in it."""


def list_workers(session: Session, now: datetime) -> list[WorkerView]:
    """The workers of the last hour, longest there first; one that was shut down in order is not listed."""
    return [_view(row, now) for row in queries.workers(session) if now - row.seen_at < _SHOWN_FOR]


def unserved(session: Session, workers: Sequence[WorkerView]) -> list[UnservedQueue]:
    """Queues in which jobs wait, and which none of these workers serves."""
    served = {queue for worker in workers if worker.is_there and worker.refusal is None for queue in worker.queues}
    waiting = queries.waiting_by_queue(session)
    return [UnservedQueue(queue=queue, jobs=n) for queue, n in waiting.items() if queue not in served]


def _view(row: Worker, now: datetime) -> WorkerView:
    return WorkerView(
        name=row.name,
        version=row.version,
        queues=[WorkQueue(queue) for queue in row.queues],
        concurrency=row.concurrency,
        started_at=row.started_at,
        seen_at=row.seen_at,
        is_there=now - row.seen_at < _GONE_AFTER,
        refusal=row.refusal,
    )
