"""Bounds the open event streams of this web process, and ends them when it shuts down."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from app.domain.errors import RateLimitedError


class EventStreams:
    """Counts open streams. `closing` becomes true once the process has been told to stop: a server waits for open
    responses before it shuts down, so streams must end on their own."""

    def __init__(self, limit: int, *, poll_seconds: float = 1.0, heartbeat_seconds: float = 15.0) -> None:
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
