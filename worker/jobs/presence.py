"""A worker's row in the database: that it is there, what it takes, and why it takes nothing."""

import logging
import os
import signal
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import __version__
from app.db.migrate import known_revisions
from app.db.queries import jobs as job_queries
from app.db.queries import workers as queries
from app.db.queries.portable_rows import revision as revision_of
from app.domain.jobs import is_newer
from worker.jobs.runtime import Runtime

logger = logging.getLogger(__name__)

_FORGET_AFTER = timedelta(days=1)


def reason_to_refuse(session: Session) -> str | None:
    """Why this version must not work on this database; None where it may."""
    revision, known = revision_of(session.connection()), known_revisions()
    if revision is not None and revision not in known:
        return (
            f"This worker is Tastemaker {__version__} and knows the database up to revision {known[0]}; the database "
            f"is at {revision}, of a newer version. Upgrade this worker."
        )
    if revision != known[0]:
        return (
            f"The database is at revision {revision or 'none'}, and this worker (Tastemaker {__version__}) needs "
            f"{known[0]}: run `tastemaker migrate`."
        )
    newer = [version for version in job_queries.versions_in_line(session) if is_newer(version, __version__)]
    if newer:
        return (
            f"Jobs in line were submitted by Tastemaker {newer[0]}, and this worker is {__version__}: it may not "
            "understand them. Upgrade this worker, or cancel those jobs."
        )
    return None


def announce(runtime: Runtime) -> str | None:
    """Say that this worker is there, or why it takes no jobs. Returns the reason."""
    with runtime.database.reader() as session:
        refusal = reason_to_refuse(session)
    try:
        with runtime.database.writer() as session:
            _record(runtime, session, refusal)
    except SQLAlchemyError:
        if refusal is None:
            raise  # else the tables are not those that this version knows: the reason stands in the log alone
    return refusal


def _record(runtime: Runtime, session: Session, refusal: str | None) -> None:
    now = runtime.clock.now()
    queries.record(
        session,
        name=runtime.name,
        version=__version__,
        queues=[queue.value for queue in runtime.settings.worker_queues],
        concurrency=runtime.settings.worker_concurrency,
        refusal=refusal,
        now=now,
    )
    queries.forget(session, seen_before=now - _FORGET_AFTER)


def leave(runtime: Runtime) -> None:
    """An orderly end: nobody need wonder where this worker is."""
    with runtime.database.writer() as session:
        queries.remove(session, runtime.name)


def stop_working(reason: str) -> None:
    """End this worker as Ctrl-C would: running jobs go back to the queue."""
    logger.error("%s", reason)
    os.kill(os.getpid(), signal.SIGTERM)
