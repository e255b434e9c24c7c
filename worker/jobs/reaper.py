"""Finds jobs that nobody looks after: running ones whose worker is lost, queued ones whose message is."""

import logging
import threading
from datetime import timedelta

from app.db.queries import jobs as queries
from app.domain.jobs import RESEND_AFTER_SECONDS, STALE_AFTER_SECONDS
from worker.jobs.recovery import recover
from worker.jobs.runtime import Runtime

logger = logging.getLogger(__name__)

_PERIOD_SECONDS = 2.0
_MESSAGES_A_ROUND = 100


def start_reaper(runtime: Runtime) -> threading.Thread:
    """Reap every two seconds in a daemon thread until the worker stops."""

    def loop() -> None:
        while not runtime.stopping.wait(_PERIOD_SECONDS):
            try:
                requeue_stale(runtime)
                send_forgotten(runtime)
            except Exception:
                logger.exception("the reaper goes on after an error")

    thread = threading.Thread(target=loop, name="reaper", daemon=True)
    thread.start()
    return thread


def requeue_stale(runtime: Runtime) -> None:
    """Take running jobs without a fresh heartbeat from their lost workers."""
    now = runtime.clock.now()
    cutoff = now - timedelta(seconds=STALE_AFTER_SECONDS)
    with runtime.database.reader() as session:
        claims = queries.stale_claims(session, cutoff)
    for claim in claims:
        with runtime.database.writer() as session:
            if claim in queries.stale_claims(session, cutoff):  # its worker may have come back meanwhile
                reason = f"lost its worker (no heartbeat for {STALE_AFTER_SECONDS:.0f} s)"
                recover(session, claim, reason=reason, now=now)
                logger.warning("job %s: attempt %d %s", claim.job_id, claim.attempt, reason)


def send_forgotten(runtime: Runtime) -> None:
    """Send the ids of queued jobs whose message was never sent or may be lost.

    Only while no message waits at the broker: behind a long job, messages would otherwise pile up. Sending one twice
    is harmless, since only one worker can claim a job.
    """
    now = runtime.clock.now()
    sent_before = now - timedelta(seconds=RESEND_AFTER_SECONDS)
    with runtime.database.reader() as session:
        jobs = queries.unsent(session, sent_before, limit=_MESSAGES_A_ROUND)
    if not jobs or runtime.queue.waiting() > 0:
        return
    for job in jobs:
        with runtime.database.writer() as session:
            is_ours = queries.mark_sent(session, job.id, sent_before=sent_before, now=now)
        if is_ours and not runtime.queue.send(job.kind, job.id):
            return
