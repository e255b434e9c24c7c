"""The time left is exact for steady work, follows a change of pace, and is withheld while it would be a guess."""

import pytest

from worker.jobs.eta import EtaEstimator


def test_nothing_is_said_before_there_is_something_to_say() -> None:
    eta = EtaEstimator(min_seconds=5, min_fraction=0.02)
    assert eta.update(0, 0.0) is None
    assert eta.update(1, 0.5) is None, "half is done, but within one second"
    eta = EtaEstimator(min_seconds=5, min_fraction=0.02)
    eta.update(0, 0.0)
    assert eta.update(60, 0.01) is None, "a minute has passed, but hardly anything is done"


@pytest.mark.parametrize("interval", [0.5, 3.0, 40.0])
def test_steady_work_is_met_exactly_at_any_reporting_interval(interval: float) -> None:
    eta = EtaEstimator()
    total = 200.0
    now = 0.0
    while now < total:
        left = eta.update(now, now / total)
        if left is not None:
            assert left == pytest.approx(total - now)
        now += interval
    assert left is not None


def test_a_resumed_job_is_not_credited_with_what_was_done_before() -> None:
    eta = EtaEstimator()
    eta.update(0, 0.5)
    left = eta.update(10, 0.6)
    assert left == pytest.approx(40)


def test_a_change_of_pace_is_followed() -> None:
    eta = EtaEstimator(memory_seconds=30)
    fraction = 0.0
    for second in range(100):
        eta.update(second, fraction)
        fraction += 0.001
    for second in range(100, 300):
        left = eta.update(second, fraction)
        fraction += 0.003
    assert left == pytest.approx((1 - (fraction - 0.003)) / 0.003, rel=0.01)


def test_a_step_back_begins_a_new_estimate() -> None:
    eta = EtaEstimator()
    eta.update(0, 0.0)
    assert eta.update(10, 0.5) is not None
    assert eta.update(20, 0.1) is None
    assert eta.update(30, 0.2) == pytest.approx(80)


def test_work_that_stands_still_has_no_time_left() -> None:
    eta = EtaEstimator(min_fraction=0)
    eta.update(0, 0.0)
    assert eta.update(10, 0.0) is None
