"""An honest guess of the time left, from the smoothed rate of progress."""

import math


class EtaEstimator:
    """Exponentially weighted rate of progress; says nothing until it has seen enough.

    The weights are normalised, so a constant rate is met exactly from the first report on.
    """

    def __init__(self, *, memory_seconds: float = 30.0, min_seconds: float = 5.0, min_fraction: float = 0.02) -> None:
        self._memory_seconds = memory_seconds
        self._min_seconds = min_seconds
        self._min_fraction = min_fraction
        self._first: tuple[float, float] | None = None
        self._last = (0.0, 0.0)
        self._rate_sum = 0.0
        self._weight_sum = 0.0

    def update(self, now: float, fraction: float) -> float | None:
        """Take in that `fraction` of the job is done at `now` (seconds on any steady clock).

        Returns seconds left, or None before `min_seconds` have passed and `min_fraction` was gained since the start
        (or since the last step back, which begins a new estimate).
        """
        last_now, last_fraction = self._last
        if self._first is None or fraction < last_fraction:
            self._first = self._last = (now, fraction)
            self._rate_sum = self._weight_sum = 0.0
            return None
        elapsed = now - last_now
        if elapsed > 0:
            kept = math.exp(-elapsed / self._memory_seconds)
            self._rate_sum = kept * self._rate_sum + (1 - kept) * (fraction - last_fraction) / elapsed
            self._weight_sum = kept * self._weight_sum + (1 - kept)
            self._last = (now, fraction)
        first_now, first_fraction = self._first
        if now - first_now < self._min_seconds or fraction - first_fraction < self._min_fraction:
            return None
        return (1 - fraction) * self._weight_sum / self._rate_sum if self._rate_sum > 0 else None
