"""Finds jobs that nobody looks after: running ones whose worker is lost, queued ones whose message is.

No clock but this process's own monotonic one decides: what counts is how long a row has looked the same from here. A
host whose clock jumps, or goes wrong by an hour, takes no job away and leaves none behind.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from app.db.queries import jobs as queries
from app.db.queries.job_lists import locked_job
from app.db.queries.jobs import Waiting
from app.domain.enums import EventKind, JobStatus, WorkQueue
from app.domain.jobs import RESEND_AFTER_SECONDS, STALE_AFTER_SECONDS
from worker.jobs.presence import announce, stop_working
from worker.jobs.recovery import recover
from worker.jobs.runtime import Runtime

logger = logging.getLogger(__name__)

_PERIOD_SECONDS = 2.0
_MESSAGES_A_ROUND = 100


class Unchanged:
    """How long each thing has looked the same to one watcher."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._since: dict[Hashable, tuple[Any, float]] = {}

    def look(self, things: Mapping[Any, Any]) -> dict[Any, float]:
        """Seconds for which each of `things` has had its present value; those that are gone are forgotten."""
        now = self._seconds()
        before, self._since = self._since, {}
        for thing, value in things.items():
            known = before.get(thing)
            self._since[thing] = known if known is not None and known[0] == value else (value, now)
        return {thing: now - since for thing, (_, since) in self._since.items()}


class Reaper:
    """One worker's watch over all jobs; every worker has one, and what they do is safe to do twice."""

    def __init__(self, runtime: Runtime, seconds: Callable[[], float] = time.monotonic) -> None:
        self._runtime = runtime
        self._heartbeats = Unchanged(seconds)
        self._messages = Unchanged(seconds)

    def requeue_stale(self) -> None:
        """Take running jobs without a fresh heartbeat from their lost workers."""
        with self._runtime.database.reader() as session:
            heartbeats = queries.heartbeats(session)
        for claim, seconds in self._heartbeats.look(heartbeats).items():
            if seconds < STALE_AFTER_SECONDS:
                continue
            with self._runtime.database.writer() as session:
                job = queries.held(session, claim)
                if job is not None and job.heartbeat_at == heartbeats[claim]:  # its worker may have come back meanwhile
                    reason = f"lost its worker (no heartbeat for {STALE_AFTER_SECONDS:.0f} s)"
                    recover(session, claim, reason=reason, now=self._runtime.clock.now(), worker_lost=True)
                    logger.warning("job %s: attempt %d %s", claim.job_id, claim.attempt, reason)

    def send_forgotten(self) -> None:
        """Send the ids of queued jobs whose message was never sent or may be lost.

        Only while no message waits in their queue: behind a long job, messages would otherwise pile up. Sending one
        twice is harmless, since only one worker can claim a job.
        """
        with self._runtime.database.reader() as session:
            lines = {queue: queries.waiting(session, queue, limit=_MESSAGES_A_ROUND) for queue in WorkQueue}
        sent = {job.job_id: job.sent_at for jobs in lines.values() for job in jobs}
        unchanged = self._messages.look(sent)
        forgotten = {
            queue: [job for job in jobs if job.sent_at is None or unchanged[job.job_id] >= RESEND_AFTER_SECONDS]
            for queue, jobs in lines.items()
        }
        if any(forgotten.values()):
            messages = self._runtime.queue.waiting()
            for queue, jobs in forgotten.items():
                if messages[queue] == 0:
                    self._send(queue, jobs)

    def report_parts(self) -> None:
        """Show on a job that waits for its parts how far they are."""
        with self._runtime.database.reader() as session:
            found = queries.progress_of_parts(session)
        for job_id, (ended, n, progress) in found.items():
            stage = f"{ended} of {n} parts done"
            with self._runtime.database.writer() as session:
                job = locked_job(session, job_id)
                is_waiting = job is not None and job.status is JobStatus.QUEUED  # it may have been cancelled meanwhile
                if job is None or not is_waiting or (job.stage == stage and abs(job.progress - progress) < 0.01):
                    continue
                queries.set_progress(session, job_id, progress=progress, stage=stage, eta_seconds=None)
                payload = {"progress": progress, "eta_seconds": None, "stage": stage}
                queries.append_event(session, job_id, EventKind.PROGRESS, payload, self._runtime.clock.now())

    def _send(self, queue: WorkQueue, jobs: list[Waiting]) -> None:
        for job in jobs:
            with self._runtime.database.writer() as session:
                now = self._runtime.clock.now()
                is_ours = queries.mark_sent(session, job.job_id, last_sent=job.sent_at, now=now)
            if is_ours and not self._runtime.queue.send(queue, job.kind, job.job_id):
                return


def start_reaper(runtime: Runtime) -> threading.Thread:
    """Reap every two seconds in a daemon thread until the worker stops."""
    reaper = Reaper(runtime)

    def loop() -> None:
        while not runtime.stopping.wait(_PERIOD_SECONDS):
            try:
                refusal = announce(runtime)
                if refusal is not None:
                    stop_working(refusal)
                    return
                reaper.requeue_stale()
                reaper.send_forgotten()
                reaper.report_parts()
            except Exception:
                logger.exception("the reaper goes on after an error")

    thread = threading.Thread(target=loop, name="reaper", daemon=True)
    thread.start()
    return thread
