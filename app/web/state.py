"""What the web process holds for its whole life, made once by `create_app`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from anyio import CapacityLimiter

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock
from app.adapters.queue import JobQueue
from app.config import Settings
from app.db.session import Database
from app.services import jobs
from app.web.streams import EventStreams, JobPulse

_POSTGRES_WRITERS = 20


@dataclass
class AppState:
    settings: Settings
    database: Database
    blobs: BlobStore
    queue: JobQueue
    clock: Clock
    event_streams: EventStreams = field(init=False)
    job_pulse: JobPulse = field(init=False)
    write_slots: CapacityLimiter = field(init=False)
    """Requests that may hold a write transaction at once. SQLite has one writer: the others queue here, where they hold
    no thread; forty threads waiting for the database's lock would leave none to the request that has it."""

    def __post_init__(self) -> None:
        self.event_streams = EventStreams(self.settings.max_event_streams)
        self.job_pulse = JobPulse(self._newest_state)
        self.write_slots = CapacityLimiter(1 if self.database.is_sqlite else _POSTGRES_WRITERS)

    def _newest_state(self, job_ids: frozenset[UUID]) -> Mapping[UUID, tuple[int, bool]]:
        with self.database.reader() as session:
            return jobs.newest_state(session, job_ids)
