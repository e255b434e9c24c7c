"""Token buckets against their definition: a burst at once, then `rate` a second, and never more than a burst saved."""

from datetime import UTC, datetime

import pytest

from app.services.rate_limits import Limit, LocalBuckets


class Time:
    """A clock that a test sets to so many seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


def test_a_burst_passes_at_once_and_then_the_rate() -> None:
    time = Time()
    buckets = LocalBuckets(time)
    limit = {"a": Limit(rate=2, burst=5)}
    assert [buckets.take(limit) for _ in range(5)] == [0] * 5
    assert buckets.take(limit) == pytest.approx(0.5)  # one call at two a second
    time.seconds += 0.49
    assert buckets.take(limit) == pytest.approx(0.01)
    time.seconds += 0.02
    assert buckets.take(limit) == 0


def test_no_more_than_a_burst_is_saved_up() -> None:
    time = Time()
    buckets = LocalBuckets(time)
    limit = {"a": Limit(rate=100, burst=3)}
    buckets.take(limit)
    time.seconds += 1e6
    assert [buckets.take(limit) > 0 for _ in range(4)] == [False, False, False, True]


def test_a_refusal_takes_from_no_bucket() -> None:
    buckets = LocalBuckets(Time())
    small, large = Limit(rate=1, burst=1), Limit(rate=1, burst=2)
    buckets.take({"small": small})
    assert buckets.take({"small": small, "large": large}) > 0
    assert [buckets.take({"large": large}) > 0 for _ in range(3)] == [False, False, True]


def test_what_is_given_back_can_be_taken_again_and_not_beyond_the_burst() -> None:
    buckets = LocalBuckets(Time())
    limit = {"a": Limit(rate=1, burst=2)}
    buckets.take(limit)
    buckets.take(limit, cost=-1)
    buckets.take(limit, cost=-1)
    assert [buckets.take(limit) > 0 for _ in range(3)] == [False, False, True]


def test_many_addresses_do_not_fill_the_memory() -> None:
    time = Time()
    buckets = LocalBuckets(time)
    for n in range(30_000):
        time.seconds += 0.1
        buckets.take({str(n): Limit(rate=1, burst=10)})
    assert len(buckets._buckets) <= 10_001
