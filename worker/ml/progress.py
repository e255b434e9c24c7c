"""How long-running numerical code tells the outside world how far it is, and hears that it should stop."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

Metric = float | int | str | None | Sequence[float | None]


@runtime_checkable
class Monitor(Protocol):
    """The only way out of `worker.ml` while it runs. Implemented by `worker.jobs.monitor` and by `SilentMonitor`."""

    def progress(self, fraction: float, *, stage: str) -> None:
        """Report the share of the whole job that is done, in [0, 1], and what is being done in plain words."""

    def log(self, message: str) -> None:
        """A line for the operator."""

    def metrics(self, row: Mapping[str, Metric]) -> None:
        """One row of the per-epoch series; the key `epoch` is its position."""

    def should_stop(self) -> bool:
        """Whether a cancel was asked for. Called between batches; the caller stores its state, then raises
        `JobCancelledError`."""
        ...


class SilentMonitor:
    """A monitor for tests, benchmarks and one-off scripts: reports nowhere, never stops."""

    def progress(self, fraction: float, *, stage: str) -> None:
        """Ignore."""

    def log(self, message: str) -> None:
        """Ignore."""

    def metrics(self, row: Mapping[str, Metric]) -> None:
        """Ignore."""

    def should_stop(self) -> bool:
        return False
