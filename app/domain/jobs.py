"""The life of a job: which status may follow which, and what an operator may ask for in each.

queued -> running -> succeeded | failed | cancelled; a failed or cancelled job may be queued again (resume keeps its
resumable state, retry starts over); a running job whose worker died is queued again.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from packaging.version import Version

from app.domain.enums import AnalysisKind, JobKind, JobStatus, WorkQueue
from app.domain.errors import ConflictError
from app.domain.specs import AnalyzeSpec, EvaluateSpec, PushSpec, RewardModelSpec, SampleSpec, Spec

SUPPORTED_JOB_KINDS = frozenset(JobKind)
"""Kinds that the workers can run; the others are refused when they are submitted."""


_QUICK_SAMPLES = 64
"""So many samples or fewer are drawn while somebody waits for them."""


def queue_of(spec: Spec) -> WorkQueue:
    """The queue that a job with this spec waits in."""
    match spec:
        case RewardModelSpec() | PushSpec():
            return WorkQueue.CPU
        case SampleSpec(n=n) if n <= _QUICK_SAMPLES:
            return WorkQueue.QUICK
        case AnalyzeSpec(kind=AnalysisKind.INVERSION):
            return WorkQueue.QUICK
        case _:
            return WorkQueue.GPU


def parts_of(spec: Spec) -> list[Spec]:
    """The specs of the jobs that each do a part of this one; none where it is done in one piece.

    Seeds are dealt out in order, so evenly as can be; a part has at least two.
    """
    if not isinstance(spec, SampleSpec | EvaluateSpec):
        return []
    n_parts = min(spec.shards, spec.n // 2)
    if n_parts < 2:
        return []
    bounds = [spec.n * part // n_parts for part in range(n_parts + 1)]
    return [
        spec.model_copy(update={"seed": spec.seed + first, "n": last - first, "shards": 1})
        for first, last in pairwise(bounds)
    ]


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
"""A job whose process dies this often without saving a newer resumable state in between fails for good."""

MAX_WORKERS_LOST = 10
"""The same where the worker is lost with it, or the database while it works. That is seldom the job's fault, and power
cuts and restarts come in rows; but a job that takes the whole machine down must end at some time."""


def ask_for_less(kind: JobKind, spec: Mapping[str, Any]) -> str:
    """What to lower in a job that needs more memory than there is."""
    batch_size = spec.get("batch_size")
    if batch_size is not None and batch_size > 1:
        return f"ask for less (try batch_size {batch_size // 2} instead of {batch_size})"
    if kind in (JobKind.SAMPLE, JobKind.EVALUATE, JobKind.ANALYZE):
        return "lower TASTEMAKER_SAMPLE_BATCH_SIZE"
    return "ask for less (fewer samples)"


def is_newer(version: str, than: str) -> bool:
    """Whether a version of Tastemaker came after another; one that says nothing is not newer than any."""
    return version != "" and Version(version) > Version(than)


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
