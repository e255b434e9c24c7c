"""What the web process holds for its whole life, made once by `create_app`."""

from dataclasses import dataclass

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock
from app.adapters.queue import JobQueue
from app.config import Settings
from app.db.session import Database


@dataclass(frozen=True)
class AppState:
    settings: Settings
    database: Database
    blobs: BlobStore
    queue: JobQueue
    clock: Clock
