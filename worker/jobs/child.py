"""Runs one attempt at one job, in a process that `worker.jobs.processes` forks for it.

The attempt records how it ended by itself; where it cannot (killed, database away), its supervisor does.
"""

import errno
import logging
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait

import torch
from sqlalchemy.exc import OperationalError

from app.adapters.resume_states import delete_state
from app.config import get_settings
from app.db.models import Job
from app.db.queries import jobs as queries
from app.db.queries.jobs import Claim
from app.domain.enums import JobStatus
from app.domain.errors import JobCancelledError, JobPausedError, TastemakerError
from app.domain.jobs import EXTENDABLE_KINDS, ask_for_less
from app.logs import configure_logging, job_id
from worker.jobs.context import JobContext
from worker.jobs.fence import Fence, LostClaimError
from worker.jobs.handlers import HANDLERS
from worker.jobs.monitor import JobMonitor
from worker.jobs.runtime import Runtime, open_runtime

logger = logging.getLogger(__name__)


def main(claim: Claim) -> None:
    """The child's life, from fork to exit."""
    os.setpgid(0, 0)  # the terminal's Ctrl-C stays with the worker, which knows what to do with its jobs
    threading.Thread(target=_end_with_worker, name="leash", daemon=True).start()
    settings = get_settings()
    configure_logging()
    job_id.set(str(claim.job_id))
    if "OMP_NUM_THREADS" not in os.environ:  # whoever sets it knows what else runs on this machine
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // settings.worker_concurrency))
    try:
        run_attempt(open_runtime(settings), claim)
    except OperationalError:
        logger.exception("the database does not answer")
        sys.exit(os.EX_TEMPFAIL)  # the supervisor tries again; the job is not to blame


def _end_with_worker() -> None:
    """However the worker ends, this process and all it has started do too: no orphan computes on."""
    worker_process = multiprocessing.parent_process()
    assert worker_process is not None
    wait([worker_process.sentinel])
    os.killpg(0, signal.SIGKILL)


def run_attempt(runtime: Runtime, claim: Claim) -> None:
    """Run the job's handler and record the end: rows, status and event in one transaction."""
    fence = Fence(runtime.database, claim, runtime.clock)
    try:
        with fence.transaction() as session:
            job = session.get_one(Job, claim.job_id)
        status, error = _run_handler(runtime, fence, job)
        if status is not JobStatus.SUCCEEDED:
            with fence.transaction() as session:
                queries.finish(session, claim.job_id, status, runtime.clock.now(), error=error)
    except LostClaimError as lost:
        logger.warning("%s; stopping without a trace", lost)


def _run_handler(runtime: Runtime, fence: Fence, job: Job) -> tuple[JobStatus, str | None]:
    clock = runtime.clock
    context = JobContext(
        settings=runtime.settings,
        database=runtime.database,
        blobs=runtime.blobs,
        clock=clock,
        fence=fence,
        monitor=JobMonitor(fence, clock),
        job=job,
        device=choose_device(runtime.settings.device),
    )
    try:
        record = HANDLERS[job.kind](context)
        with fence.transaction() as session:
            result = record(session)
            state = session.get_one(Job, job.id).resume_sha256
            keep_state = job.kind in EXTENDABLE_KINDS
            queries.finish(session, job.id, JobStatus.SUCCEEDED, clock.now(), result=result, keep_state=keep_state)
        if not keep_state:
            delete_state(runtime.database, runtime.blobs, state)
    except JobPausedError as paused:
        return JobStatus.CANCELLED, paused.detail
    except JobCancelledError as cancelled:
        context.monitor.log(cancelled.detail)
        return JobStatus.CANCELLED, None
    except TastemakerError as failure:
        return JobStatus.FAILED, failure.detail
    except (LostClaimError, OperationalError):  # the database is away: the supervisor tries again
        raise
    except (torch.OutOfMemoryError, MemoryError):
        logger.exception("out of memory")
        return JobStatus.FAILED, f"Memory ran out; {ask_for_less(job.kind, job.spec)}, then resume the job."
    except Exception as bug:
        if is_disk_full(bug):
            logger.exception("disk full")
            return JobStatus.FAILED, (
                "The disk is full. What was saved before is whole; free some space (Storage lists what can go), then "
                f"resume the job. The system said: {bug}"
            )
        logger.exception("unexpected error")
        return JobStatus.FAILED, (
            f"Unexpected {type(bug).__name__}: {bug}. This is a defect; the worker's log holds the traceback."
        )
    return JobStatus.SUCCEEDED, None


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that nothing more can be written. Libraries that write
    by themselves (safetensors, torch) raise errors of their own around it."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def choose_device(setting: str) -> str:
    """`auto` becomes the best device that torch finds here; anything else is taken as it is."""
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
