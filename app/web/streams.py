"""Bounds the open event streams of this web process, and ends them when it shuts down."""

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from uuid import UUID

import anyio
from starlette.concurrency import run_in_threadpool

from app.domain.errors import RateLimitedError


class JobPulse:
    """One look at all followed jobs, shared by their streams: a hundred idle streams cost one small query a round."""

    def __init__(self, read: Callable[[frozenset[UUID]], Mapping[UUID, tuple[int, bool]]]) -> None:
        self._read = read
        self._lock = anyio.Lock()
        self._followed: Counter[UUID] = Counter()
        self._seen: Mapping[UUID, tuple[int, bool]] = {}
        self._read_at = -math.inf

    @contextmanager
    def following(self, job_id: UUID) -> Iterator[None]:
        """Look at this job too while the block runs."""
        self._followed[job_id] += 1
        self._read_at = -math.inf  # what was seen before does not hold this job
        try:
            yield
        finally:
            self._followed[job_id] -= 1
            if not self._followed[job_id]:
                del self._followed[job_id]

    async def has_news(self, job_id: UUID, after: int, *, max_age: float) -> bool:
        """Whether the job's log goes beyond `after`, its job has ended or is gone, as of `max_age` seconds ago."""
        async with self._lock:
            if time.monotonic() - self._read_at >= max_age:
                self._read_at = time.monotonic()
                self._seen = await run_in_threadpool(self._read, frozenset(self._followed))
        last_seq, has_ended = self._seen.get(job_id, (0, True))
        return has_ended or last_seq > after


class EventStreams:
    """Counts open streams. `closing` becomes true once the process has been told to stop: a server waits for open
    responses before it shuts down, so streams must end on their own."""

    def __init__(self, limit: int, *, poll_seconds: float = 0.5, heartbeat_seconds: float = 15.0) -> None:
        self.poll_seconds = poll_seconds
        self.heartbeat_seconds = heartbeat_seconds
        self.closing = False
        self._limit = limit
        self._open = 0

    @property
    def n_open(self) -> int:
        return self._open

    def acquire(self) -> None:
        """Take a place; `release` gives it back.

        Raises:
            RateLimitedError: all places are taken.
        """
        if self._open >= self._limit:
            raise RateLimitedError(
                f"All {self._limit} event streams of this server are in use; close some, or poll the JSON list."
            )
        self._open += 1

    def release(self) -> None:
        self._open -= 1

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """While the block runs, SIGINT and SIGTERM also end the streams, before the server's own handler acts."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers; a server in another thread has none to chain to
            self.closing = True
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def end_streams(number: int, frame: FrameType | None) -> None:
            self.closing = True
            handler = previous[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            elif handler is signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        for number in previous:
            signal.signal(number, end_streams)
        try:
            yield
        finally:
            self.closing = True
            for number, handler in previous.items():
                signal.signal(number, handler)
