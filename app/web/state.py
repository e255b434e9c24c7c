"""What the web process holds for its whole life, made once by `create_app`."""

from dataclasses import dataclass, field

from anyio import CapacityLimiter

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock
from app.adapters.queue import JobQueue
from app.config import Settings
from app.db.session import Database
from app.web.streams import EventStreams

_POSTGRES_WRITERS = 20


@dataclass
class AppState:
    settings: Settings
    database: Database
    blobs: BlobStore
    queue: JobQueue
    clock: Clock
    event_streams: EventStreams = field(init=False)
    write_slots: CapacityLimiter = field(init=False)
    """Requests that may hold a write transaction at once. SQLite has one writer: the others queue here, where they hold
    no thread; forty threads waiting for the database's lock would leave none to the request that has it."""

    def __post_init__(self) -> None:
        self.event_streams = EventStreams(self.settings.max_event_streams)
        self.write_slots = CapacityLimiter(1 if self.database.is_sqlite else _POSTGRES_WRITERS)
