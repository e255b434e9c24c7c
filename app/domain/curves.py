"""Long per-epoch series made short enough to draw: buckets of neighbouring epochs, averaged."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any


def averaged_down(columns: Mapping[str, Sequence[Any]], points: int) -> dict[str, list[Any]]:
    """Columns of at most `points` rows. A row is a bucket of neighbours: `epoch` is its last one, `*_min` and `*_max`
    their extremes, other numbers and lists of numbers the mean of what was reported; text is the last that was.

    Raises:
        ValueError: fewer than one point.
    """
    if points < 1:
        raise ValueError("a curve needs one point at least")
    n = len(columns["epoch"])
    if n <= points:
        return {name: list(column) for name, column in columns.items()}
    edges = [round(index * n / points) for index in range(points + 1)]
    buckets = list(pairwise(edges))
    return {name: [_one(name, column[start:end]) for start, end in buckets] for name, column in columns.items()}


def _one(name: str, values: Sequence[Any]) -> Any:
    reported = [value for value in values if value is not None]
    if not reported:
        return None
    if name == "epoch" or isinstance(reported[-1], str):
        return reported[-1]
    if isinstance(reported[-1], list):
        width = len(reported[-1])
        lists = [value for value in reported if isinstance(value, list) and len(value) == width]
        return [_mean([part for part in parts if part is not None]) for parts in zip(*lists, strict=True)]
    if name.endswith("_min"):
        return min(reported)
    return max(reported) if name.endswith("_max") else _mean(reported)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
