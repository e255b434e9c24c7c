"""Claims a job and supervises the child process that runs it: heartbeat, cancel, and what to do when it dies."""

import logging
import os
import signal
import time
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from app.db.queries import jobs as queries
from app.db.queries.jobs import Claim
from app.domain.enums import EventKind
from app.domain.jobs import CANCEL_GRACE_SECONDS, HEARTBEAT_SECONDS
from app.logs import working_for_job
from worker.jobs.presence import reason_to_refuse, stop_working
from worker.jobs.processes import ChildProcess, wait_for_server
from worker.jobs.recovery import recover
from worker.jobs.runtime import Runtime
from worker.jobs.usage import UsageMeter

logger = logging.getLogger(__name__)

_LEAVE_SECONDS = 10.0  # how long a child that holds its job no more may take to end by itself


def run_job(runtime: Runtime, job_id: UUID) -> None:
    """Run one queued job to its end: the one that is first in line in the queues that this worker serves, which need
    not be the one that the message names.

    Every queued job has a message, so one message is one turn. A turn that finds no queued job (a message that came
    twice, a job that was cancelled meanwhile) does nothing.
    """
    wait_for_server()  # before the claim: from then on there must be heartbeats
    claim = _take_turn(runtime)
    if claim is None:
        logger.info("job %s is not queued (any more), and no other is; nothing to do", job_id)
        return
    with working_for_job(claim.job_id):
        _run(runtime, claim)
    _announce_whole(runtime, claim.job_id)


def _take_turn(runtime: Runtime) -> Claim | None:
    with runtime.database.writer() as session:
        refusal = reason_to_refuse(session)
        if refusal is None:
            queues = runtime.settings.worker_queues
            return queries.claim_first(session, queues, worker=runtime.name, now=runtime.clock.now())
    stop_working(refusal)
    return None


def _announce_whole(runtime: Runtime, part_id: UUID) -> None:
    """Send the job that waited for this part, if it waits for no other, rather than leave it to the reaper."""
    with runtime.database.writer() as session:
        whole = queries.whole_without_open_parts(session, part_id)
        if whole is None or not queries.mark_sent(session, whole.id, last_sent=whole.sent_at, now=runtime.clock.now()):
            return
    runtime.queue.send(whole.queue, whole.kind, whole.id)


def _run(runtime: Runtime, claim: Claim) -> None:
    job_id = claim.job_id
    logger.info("job %s: attempt %d begins", job_id, claim.attempt)
    exit_code = _supervise(runtime, claim)
    logger.info("job %s: attempt %d ended with exit code %s", job_id, claim.attempt, exit_code)
    with runtime.database.writer() as session:
        if runtime.stopping.is_set() and queries.held(session, claim) is not None:
            message = "The worker was shut down; the job goes on when one is there again."
            now = runtime.clock.now()
            queries.requeue(session, job_id, now, message=message, values=queries.WITHOUT_THIS_ATTEMPT)
            return
        queued_again = recover(
            session, claim, reason=_how_it_ended(exit_code), now=runtime.clock.now(),
            worker_lost=exit_code == os.EX_TEMPFAIL,
        )  # fmt: skip
    if queued_again:
        logger.warning("job %s: %s; queued again", job_id, _how_it_ended(exit_code))


def _supervise(runtime: Runtime, claim: Claim) -> int:
    """Vouch for the child until it ends. Returns its exit code, negative for a signal."""
    child = ChildProcess("worker.jobs.child", "main", claim)
    meter = UsageMeter(child.pid)
    give_up_at: float | None = None
    try:
        while (exit_code := child.wait(HEARTBEAT_SECONDS)) is None:
            if runtime.stopping.is_set() or (give_up_at is not None and time.monotonic() > give_up_at):
                child.end()
                continue
            try:
                with runtime.database.writer() as session:
                    now = runtime.clock.now()
                    cancel_requested = queries.heartbeat(session, claim, now)
                    if cancel_requested is not None and (usage := meter.reading()) is not None:
                        queries.append_event(session, claim.job_id, EventKind.WORKER, usage, now)
            except SQLAlchemyError:  # if this lasts, the reaper takes the job away and the fence does the rest
                logger.exception("job %s: no heartbeat, the database does not answer", claim.job_id)
                continue
            if give_up_at is None and cancel_requested is None:
                give_up_at = time.monotonic() + _LEAVE_SECONDS
            elif give_up_at is None and cancel_requested:
                give_up_at = time.monotonic() + CANCEL_GRACE_SECONDS
        return exit_code
    finally:
        child.end()


def _how_it_ended(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "was killed (signal 9), most likely because the machine ran out of memory"
    if exit_code == os.EX_TEMPFAIL:
        return "lost the database"
    if exit_code < 0:
        return f"was ended by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return f"ended with exit code {exit_code} before it could say why"
