"""Geometry of figures that the server draws as SVG, which need no script and print well; units are of the viewBox."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.web.figures import Scale, nice_values

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 36
_COLUMNS, _ROWS = 120, 28  # at most: more epochs share a column


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it is, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Cell:
    """A rectangle of a density; `share` is that of its column's samples."""

    x: float
    y: float
    width: float
    height: float
    opacity: float
    title: str


@dataclass(frozen=True)
class Chart:
    """Cells and a line over common axes."""

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    line: str
    """Points of an SVG polyline; empty without a line."""
    cells: list[Cell]


def sparkline(values: Sequence[float], *, low: float, high: float, width: int = 120, height: int = 40) -> str:
    """Points of an SVG polyline through `values`, on an axis from `low` to `high` that several of them share."""
    across, up = _scale(0, max(1, len(values) - 1), 3, width - 3), _scale(low, high, height - 3, 3)
    return " ".join(f"{across(place)},{up(value)}" for place, value in enumerate(values))


def distribution_chart(columns: Mapping[str, Sequence[Any]]) -> Chart | None:
    """The reward of every sample of every epoch as a density, with the mean as a line (thesis, figure 5.3).

    Args:
        columns: a finetune's metrics; `reward_histogram` counts samples in equal bins from `reward_min` to
            `reward_max`.

    Returns:
        None where no epoch has told its distribution.
    """
    told = [
        (int(epoch), counts, float(low), float(high), float(mean))
        for epoch, counts, low, high, mean in zip(
            *(
                columns.get(name, [])
                for name in ("epoch", "reward_histogram", "reward_min", "reward_max", "reward_mean")
            ),
            strict=False,
        )
        if counts
    ]
    if not told:
        return None
    first, last = told[0][0], told[-1][0]
    y = _scale(min(row[2] for row in told), max(row[3] for row in told), HEIGHT - BOTTOM, TOP)
    n_columns = min(_COLUMNS, last - first + 1)
    x = _scale(first - 0.5, last + 0.5, LEFT, WIDTH - RIGHT)
    grid = [[0.0] * _ROWS for _ in range(n_columns)]
    for epoch, counts, low, high, _ in told:
        column = min(n_columns - 1, (epoch - first) * n_columns // (last - first + 1))
        for index, count in enumerate(counts):
            value = low + (high - low) * (index + 0.5) / len(counts)
            row = min(_ROWS - 1, int((value - y.low) / (y.high - y.low) * _ROWS))
            grid[column][row] += count
    width = (WIDTH - LEFT - RIGHT) / n_columns
    height = (HEIGHT - TOP - BOTTOM) / _ROWS
    cells = []
    for column, rows in enumerate(grid):
        total = sum(rows)
        for row, count in enumerate(rows):
            if count:
                share = count / total
                low = y.low + (y.high - y.low) * row / _ROWS
                title = f"{count:.0f} samples ({share:.0%}) from {low:.4g} to {low + (y.high - y.low) / _ROWS:.4g}"
                top = HEIGHT - BOTTOM - (row + 1) * height
                opacity = round(min(1.0, 0.12 + 2.5 * share), 2)
                cells.append(
                    Cell(
                        round(LEFT + column * width, 1),
                        round(top, 1),
                        round(width, 1),
                        round(height, 1),
                        opacity,
                        title,
                    )
                )
    line = " ".join(f"{x(epoch)},{y(mean)}" for epoch, _, _, _, mean in told)
    return Chart(_epoch_ticks(x, first, last), _ticks(y), line, cells)


def line_chart(columns: Mapping[str, Sequence[Any]], name: str) -> Chart | None:
    """One metric over epochs; None where fewer than two epochs have it."""
    points = [
        (int(epoch), float(value))
        for epoch, value in zip(columns.get("epoch", []), columns.get(name, []), strict=False)
        if isinstance(value, int | float)
    ]
    if len(points) < 2:
        return None
    stride = math.ceil(len(points) / 600)
    points = [*points[:-1:stride], points[-1]]
    values = [value for _, value in points]
    y = _scale(min(values), max(values), HEIGHT - BOTTOM, TOP)
    x = _scale(points[0][0] - 0.5, points[-1][0] + 0.5, LEFT, WIDTH - RIGHT)
    line = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in points)
    return Chart(_epoch_ticks(x, points[0][0], points[-1][0]), _ticks(y), line, [])


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    """From end to end of the range; around a constant there is some air."""
    if not high > low:
        spread = abs(low) * 0.05 or 1.0
        low, high = low - spread, high + spread
    return Scale(low, high, start, end)


def _ticks(scale: Scale) -> list[Tick]:
    return [Tick(scale(value), _label(value)) for value in nice_values(scale.low, scale.high)]


def _epoch_ticks(x: Scale, first: int, last: int) -> list[Tick]:
    epochs = {first} if first == last else {round(value) for value in nice_values(first, last, 8)}
    return [Tick(x(epoch), str(epoch)) for epoch in sorted(epochs)]


def _label(value: float) -> str:
    """Small numbers with an exponent, others as they are."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.6g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"
