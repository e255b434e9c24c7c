"""Figures that the server draws: every sample is in them, and axes are round."""

import pytest

from app.web.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, distribution_chart, line_chart


def test_every_column_of_a_density_holds_all_of_its_samples() -> None:
    n = 500
    columns = {
        "epoch": list(range(1, n + 1)),
        "reward_histogram": [[1, 2, 5]] * n,
        "reward_min": [float(epoch) for epoch in range(n)],
        "reward_max": [float(epoch + 10) for epoch in range(n)],
        "reward_mean": [float(epoch + 6) for epoch in range(n)],
    }
    chart = distribution_chart(columns)
    assert chart is not None
    assert sum(int(cell.title.split()[0]) for cell in chart.cells) == 8 * n
    assert len({cell.x for cell in chart.cells}) == 120
    for cell in chart.cells:
        assert LEFT - 0.1 <= cell.x <= WIDTH - RIGHT
        assert TOP - 0.1 <= cell.y <= HEIGHT - BOTTOM


def test_nothing_told_is_no_chart() -> None:
    assert distribution_chart({"epoch": [0], "reward_mean": [1.0]}) is None
    assert line_chart({"epoch": [1], "lr": [1.0]}, "lr") is None


def test_a_line_keeps_its_ends_however_long_the_run() -> None:
    chart = line_chart({"epoch": list(range(10_000)), "lr": [1.0 / (1 + k) for k in range(10_000)]}, "lr")
    assert chart is not None
    points = [tuple(map(float, point.split(","))) for point in chart.line.split()]
    assert len(points) < 700
    assert points[0][1] == pytest.approx(TOP)
    assert points[-1][1] == pytest.approx(HEIGHT - BOTTOM)


def test_a_constant_metric_has_an_axis() -> None:
    chart = line_chart({"epoch": [1, 2, 3], "lr": [2e-4, 2e-4, 2e-4]}, "lr")
    assert chart is not None
    assert any(tick.label == "2e-4" for tick in chart.y_ticks)
