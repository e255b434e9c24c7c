"""What a handler gets: the job, its claim, and the stores it may use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock
from app.config import Settings
from app.db.models import Job
from app.db.session import Database
from worker.jobs.fence import Fence
from worker.jobs.monitor import JobMonitor


@dataclass(frozen=True)
class JobContext:
    settings: Settings
    database: Database
    """For reading; writes go through `fence.transaction()`."""
    blobs: BlobStore
    clock: Clock
    fence: Fence
    monitor: JobMonitor
    job: Job
    """The row as it was when this attempt began."""
    device: str
    """Where torch runs, for example `cpu` or `cuda:0`."""


Record = Callable[[Session], dict[str, Any]]
"""Adds a finished job's rows and returns its `result`; runs in the transaction that marks the job as succeeded."""


class Handler(Protocol):
    """Runs one kind of job: load, compute, store.

    Raises:
        JobCancelledError: stopped on request, after what can be resumed was stored.
        TastemakerError: failed; the message is shown to the operator as it stands.
    """

    def __call__(self, context: JobContext) -> Record: ...
