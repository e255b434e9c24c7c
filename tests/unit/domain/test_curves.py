"""Long series made short: nothing invented, nothing lost that a chart is read for."""

import pytest

from app.domain.curves import averaged_down


def test_a_short_series_is_left_as_it_is() -> None:
    columns = {"epoch": [1, 2, 3], "reward_mean": [0.5, None, 0.7]}
    assert averaged_down(columns, 3) == columns


def test_buckets_hold_means_extremes_and_the_last_epoch() -> None:
    n, points = 10_000, 400
    columns = {
        "epoch": list(range(1, n + 1)),
        "reward_mean": [float(i) for i in range(n)],
        "reward_max": [1.0 if i == 5003 else 0.0 for i in range(n)],
        "reward_min": [-1.0 if i == 7 else 0.0 for i in range(n)],
        "eval_reward_mean": [float(i) if i % 50 == 0 else None for i in range(n)],
        "clip_fraction_t": [[i / n, None, 1.0] for i in range(n)],
    }
    short = averaged_down(columns, points)
    assert {len(column) for column in short.values()} == {points}
    assert short["epoch"][-1] == n
    assert short["epoch"] == [25 * (k + 1) for k in range(points)]
    assert short["reward_mean"] == [25 * k + 12.0 for k in range(points)]
    assert max(short["reward_max"]) == 1.0
    assert min(short["reward_min"]) == -1.0
    assert [value for value in short["eval_reward_mean"] if value is not None] == [50.0 * k for k in range(n // 50)]
    assert short["clip_fraction_t"][0] == [pytest.approx(12 / n), None, 1.0]


def test_averages_of_averages_keep_the_mean() -> None:
    columns = {"epoch": list(range(1000)), "lr": [i**0.5 for i in range(1000)]}
    short = averaged_down(columns, 10)
    assert sum(short["lr"]) / 10 == pytest.approx(sum(columns["lr"]) / 1000)
