"""The life of a job: which status may follow which, and what an operator may ask for in each.

queued -> running -> succeeded | failed | cancelled; a failed or cancelled job may be queued again (resume keeps its
resumable state, retry starts over); a running job whose worker died is queued again.
"""

from app.domain.enums import JobKind, JobStatus
from app.domain.errors import ConflictError

SUPPORTED_JOB_KINDS = frozenset(JobKind)
"""Kinds that the workers can run; the others are refused when they are submitted."""


def served_together(kind: JobKind) -> frozenset[JobKind]:
    """The kinds whose messages come through the same queue: a worker that gets one of them takes whichever of these
    jobs is first in line."""
    return SUPPORTED_JOB_KINDS if kind in SUPPORTED_JOB_KINDS else frozenset({kind})


EXTENDABLE_KINDS = frozenset({JobKind.FINETUNE})
"""Kinds that keep their resumable state when they succeed, so that their budget can be raised afterwards."""

_CANCELLABLE = frozenset({JobStatus.QUEUED, JobStatus.RUNNING})
_RESTARTABLE = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})

HEARTBEAT_SECONDS = 2.0
"""How often a running job's supervisor writes `heartbeat_at`."""

STALE_AFTER_SECONDS = 15.0
"""A running job whose heartbeat is older than this has lost its worker."""

RESEND_AFTER_SECONDS = 10.0
"""A queued job that was last sent longer ago than this is sent again: its message may have been lost."""

CANCEL_GRACE_SECONDS = 60.0
"""How long a cancelled job may take to reach its next batch and store its state before its process is ended."""

MAX_ATTEMPTS_WITHOUT_PROGRESS = 3
"""A job that dies this often without saving a newer resumable state in between fails for good."""


def require_cancellable(status: JobStatus) -> None:
    if status not in _CANCELLABLE:
        raise ConflictError(f"A {status.value} job cannot be cancelled; only queued and running jobs can.")


def require_restartable(status: JobStatus) -> None:
    """Resume goes on from the last resumable state (or from the start where none was saved); retry starts over."""
    if status not in _RESTARTABLE:
        raise ConflictError(f"A {status.value} job cannot be started again; only failed and cancelled jobs can.")


def require_ended(status: JobStatus, what: str) -> None:
    """`what` completes the sentence "... once the job has ended"."""
    if not status.is_final:
        raise ConflictError(f"A {status.value} job still works: {what} once it has ended (cancel it first).")


def require_queued(status: JobStatus) -> None:
    if status is not JobStatus.QUEUED:
        raise ConflictError(f"A {status.value} job has no place in the queue; only queued jobs can be moved.")
