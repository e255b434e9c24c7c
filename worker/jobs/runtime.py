"""What a worker process holds for its whole life."""

import os
import socket
import threading
from dataclasses import dataclass, field
from functools import lru_cache

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock, SystemClock
from app.adapters.queue import JobQueue
from app.config import Settings, get_settings
from app.db.models import Job
from app.db.session import Database
from app.domain.errors import UnavailableError


@dataclass(frozen=True)
class Runtime:
    settings: Settings
    database: Database
    blobs: BlobStore
    queue: JobQueue
    clock: Clock
    name: str
    """Which worker holds a job: host and process id."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the worker shuts down; running jobs go back to the queue."""

    def check_database(self) -> None:
        """Raise UnavailableError unless the database answers and has the current tables."""
        try:
            with self.database.reader() as session:
                session.execute(select(Job.id, Job.last_event_seq).limit(1))
        except SQLAlchemyError as error:
            raise UnavailableError(
                "The worker needs the database, and it is not reachable or not migrated: run `tastemaker migrate`, "
                f"and check TASTEMAKER_DATABASE_URL. The database said: {error}"
            ) from error


def open_runtime(settings: Settings) -> Runtime:
    return Runtime(
        settings=settings,
        database=Database(settings.sqlalchemy_url),
        blobs=BlobStore(settings.blob_root, endpoint_url=settings.blob_endpoint_url),
        queue=JobQueue(settings.celery_broker_url),
        clock=SystemClock(),
        name=f"{socket.gethostname()}:{os.getpid()}",
    )


@lru_cache(maxsize=1)
def current_runtime() -> Runtime:
    """This process's runtime, opened when the first signal or task asks for it."""
    return open_runtime(get_settings())
