"""Honest progress: every kind of work is weighed by the seconds that it has been seen to take on this machine."""

import time
from collections.abc import Callable, Mapping

from worker.ml.progress import Monitor

_PRIOR_WEIGHT = {"rollout": 1.0, "update": 3.4, "evaluation": 1.0}
"""Seconds of one network evaluation relative to a rollout's, until measured: an update runs backward as well."""


class Pace:
    """Counts network evaluations of each kind against a plan and reports the share of the expected time done."""

    def __init__(
        self, monitor: Monitor, plan: Mapping[str, int], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._monitor = monitor
        self._plan = dict(plan)
        self._done = dict.fromkeys(plan, 0)
        self._measured = dict.fromkeys(plan, 0)
        self._seconds = dict.fromkeys(plan, 0.0)
        self._clock = clock
        self._kind = ""
        self._stage = ""
        self._last = 0.0
        self._reported = 0.0

    def skip(self, done: Mapping[str, int]) -> None:
        """Work that an earlier attempt did; it counts as done but says nothing about speed."""
        for kind, evaluations in done.items():
            self._done[kind] += evaluations

    def begin(self, kind: str, stage: str) -> None:
        """A phase of `kind` starts now."""
        self._kind, self._stage, self._last = kind, stage, self._clock()

    def add(self, evaluations: int) -> None:
        """`evaluations` more of the phase are finished; reports progress, which never goes backwards."""
        now = self._clock()
        self._seconds[self._kind] += now - self._last
        self._last = now
        self._done[self._kind] += evaluations
        self._measured[self._kind] += evaluations
        expected = {kind: self._plan[kind] * self._cost(kind) for kind in self._plan}
        done = sum(
            min(1.0, self._done[kind] / self._plan[kind]) * seconds for kind, seconds in expected.items() if seconds
        )
        self._reported = max(self._reported, min(1.0, done / sum(expected.values())))
        self._monitor.progress(self._reported, stage=self._stage)

    def _cost(self, kind: str) -> float:
        """Seconds of one evaluation: measured, or the prior scaled by what has been measured of other kinds."""
        if self._measured[kind]:
            return self._seconds[kind] / self._measured[kind]
        known = [other for other in self._plan if self._measured[other]]
        scale = sum(self._seconds[other] for other in known) / sum(
            self._measured[other] * _PRIOR_WEIGHT[other] for other in known
        )
        return scale * _PRIOR_WEIGHT[kind]
