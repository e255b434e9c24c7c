"""The monitor of a running job: numerical code reports here, and it becomes rows of `job` and `job_event`."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from app.adapters.clock import Clock
from app.db.queries import jobs as queries
from app.domain.enums import EventKind
from worker.jobs.eta import EtaEstimator
from worker.jobs.fence import Fence
from worker.ml.progress import Metric, Monitor

logger = logging.getLogger(__name__)

_WRITE_SECONDS = 0.5  # at most two writes of progress and two looks for a cancel a second
_EVENT_FRACTION = 0.01  # progress enters the log when it has moved this far ...
_EVENT_SECONDS = 10.0  # ... or at the latest after this time: a day's job logs thousands of rows, not hundreds of them


class JobMonitor:
    """Implements `worker.ml.progress.Monitor`. Every method raises LostClaimError once the claim is lost."""

    def __init__(self, fence: Fence, clock: Clock) -> None:
        self._fence = fence
        self._clock = clock
        self._eta = EtaEstimator()
        self._pending: dict[str, Any] | None = None
        self._written_at = -math.inf
        self._logged_at = -math.inf
        self._logged_progress = -math.inf
        self._asked_at = -math.inf
        self._stop = False

    def progress(self, fraction: float, *, stage: str) -> None:
        fraction = min(max(fraction, 0.0), 1.0)
        eta_seconds = self._eta.update(self._now(), fraction)
        self._pending = {"progress": fraction, "stage": stage[:200], "eta_seconds": eta_seconds}
        self._write_progress()

    def log(self, message: str) -> None:
        logger.info("job %s: %s", self._fence.claim.job_id, message)
        self._append(EventKind.LOG, {"message": message})

    def metrics(self, row: Mapping[str, Metric]) -> None:
        self._append(EventKind.METRICS, {name: _json_safe(value) for name, value in row.items()})

    def should_stop(self) -> bool:
        self._write_progress()
        if not self._stop and self._now() - self._asked_at >= _WRITE_SECONDS:
            self._asked_at = self._now()
            self._stop = self._fence.cancel_requested()
        return self._stop

    def _write_progress(self) -> None:
        now = self._now()
        if self._pending is None or now - self._written_at < _WRITE_SECONDS:
            return
        moved = abs(self._pending["progress"] - self._logged_progress) >= _EVENT_FRACTION
        with self._fence.transaction() as session:
            queries.set_progress(session, self._fence.claim.job_id, **self._pending)
            if moved or now - self._logged_at >= _EVENT_SECONDS:
                self._fence.event(session, EventKind.PROGRESS, self._pending)
                self._logged_at, self._logged_progress = now, self._pending["progress"]
        self._written_at = now
        self._pending = None

    def _append(self, kind: EventKind, payload: Mapping[str, Any]) -> None:
        with self._fence.transaction() as session:
            self._fence.event(session, kind, payload)

    def _now(self) -> float:
        return self._clock.now().timestamp()


class PartMonitor:
    """A monitor for one part of a job: its progress from 0 to 1 becomes the job's from `start` to `end`."""

    def __init__(self, monitor: Monitor, start: float, end: float) -> None:
        self.log = monitor.log
        self.metrics = monitor.metrics
        self.should_stop = monitor.should_stop
        self._progress = monitor.progress
        self._start = start
        self._end = end

    def progress(self, fraction: float, *, stage: str) -> None:
        self._progress(self._start + (self._end - self._start) * fraction, stage=stage)


def _json_safe(value: Metric) -> Any:
    """NaN and infinity have no JSON; they become null."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [_json_safe(item) for item in value]
