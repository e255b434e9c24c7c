"""Geometry of the figures that the server draws as SVG: scales, ticks, paths. Pixels are the SVG's own units."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.web.templating import figure


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start, end] pixels; `start` may be the larger one, as it is for a y axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(pixel, label) at round values inside the range."""
        return [(self(value), figure(value)) for value in nice_values(self.low, self.high)]


def scale_for(values: Iterable[float], *, start: float, end: float, around: Sequence[float] = ()) -> Scale:
    """A scale that holds all finite values, those in `around` too, with a little air; never empty."""
    finite = [value for value in (*values, *around) if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    air = 0.04 * (high - low) or max(abs(high), 1.0) * 0.05
    return Scale(low - air, high + air, start, end)


def nice_values(low: float, high: float, n: int = 5) -> list[float]:
    """About `n` multiples of 1, 2 or 5 times a power of ten inside [low, high]."""
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [round(k * step, 12) for k in range(first, math.floor(high / step) + 1)]


def line(points: Iterable[tuple[float, float]]) -> str:
    """A path through the points."""
    return "".join(f"{'L' if index else 'M'}{x:g} {y:g}" for index, (x, y) in enumerate(points))


def band(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]]) -> str:
    """A closed path between two lines."""
    return f"{line([*upper, *reversed(lower)])}Z"


def dots(points: Iterable[tuple[float, float]]) -> str:
    """A path whose round line caps are dots: a fraction of the bytes of circles."""
    return "".join(f"M{x:g} {y:g}h0" for x, y in points)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the neighbours, of values in ascending order."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
