"""What the analysis pages draw, from the documents that the jobs leave."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from app.services.over_optimisation import OverOptimisationReport
from app.web.figures import Scale, band, dots, line, nice_values, quantile, scale_for
from app.web.templating import figure

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 36
_THIN_LINES = 60
_MAP_EDGE = 640
_MAP_MARGIN = 14
N_SHADES = 7


@dataclass(frozen=True)
class TracePanel:
    """One reward along the trajectory, of x_t or of x_0_pred."""

    title: str
    thin: str
    inner: str
    mean: str
    best: str
    worst: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    rows: list[tuple[str, float, float]]
    """(state in words, mean, standard error)."""


def trace_panels(traced: Mapping[str, Any], reward: str, seeds: Sequence[int]) -> list[TracePanel]:
    """x_t and x_0_pred on one y scale, so that they can be compared."""
    along = traced["rewards"][reward]
    every = [value for part in ("noisy", "denoised") for row in along[part]["values"] for value in row]
    y = scale_for(every, start=_HEIGHT - _BOTTOM, end=_TOP)
    states = traced["states"]
    x = Scale(states[0], states[-1], _LEFT, _WIDTH - 2 * _RIGHT)
    names = [str(step) if step is not None else "sample" for step in traced["timesteps"]]
    x_ticks = [(x(state), name) for state, name in zip(states, names, strict=True)]
    while len(x_ticks) > 8:
        x_ticks = x_ticks[::-2][::-1]
    panels = []
    for title, part in (("of the noisy x_t", "noisy"), ("of the prediction x_0_pred", "denoised")):
        values: list[list[float]] = along[part]["values"]
        columns = [sorted(column) for column in zip(*values, strict=True)]

        def through(row: Sequence[float]) -> list[tuple[float, float]]:
            return [(x(state), y(value)) for state, value in zip(states, row, strict=True)]

        stride = max(1, len(values) // _THIN_LINES)
        panels.append(
            TracePanel(
                title=title,
                thin="".join(line(through(row)) for row in values[::stride]),
                inner=band(
                    through([quantile(column, 0.9) for column in columns]),
                    through([quantile(column, 0.1) for column in columns]),
                ),
                mean=line(through(along[part]["mean"])),
                best=line(through(values[along["best"]["seed"] - seeds[0]])),
                worst=line(through(values[along["worst"]["seed"] - seeds[0]])),
                x_ticks=x_ticks,
                y_ticks=y.ticks,
                rows=[
                    (f"t = {name}" if name != "sample" else "the sample", fmean(column), _sem(column))
                    for name, column in zip(names, columns, strict=True)
                ],
            )
        )
    return panels


@dataclass(frozen=True)
class PairRow:
    seed: int
    base: str
    finetuned: str
    moved: float
    rewards: tuple[float, float] | None


@dataclass(frozen=True)
class MapFigure:
    """Both sets in one plane. Shades are (class number, base dots, finetuned dots) by reward, lowest first."""

    edge: int
    lines: str
    shades: list[tuple[int, str, str]]
    legend: list[str]
    """The reward at the bounds of the shades."""
    pairs: list[PairRow]
    """Those that moved furthest first."""


def map_figure(document: Mapping[str, Any], *, place: int, method: str, reward: str | None) -> MapFigure:
    """The map of the `place`-th finetuned checkpoint beside the base."""
    laid_out = document["maps"][place][method]
    sets: list[list[list[float]]] = [laid_out["base"], laid_out["finetuned"]]
    xs, ys = ([point[axis] for points in sets for point in points] for axis in (0, 1))
    half = 0.5 * max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0  # one unit for both axes: distances mean the same
    mid_x, mid_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    x = Scale(mid_x - half, mid_x + half, _MAP_MARGIN, _MAP_EDGE - _MAP_MARGIN)
    y = Scale(mid_y - half, mid_y + half, _MAP_EDGE - _MAP_MARGIN, _MAP_MARGIN)
    placed = [[(x(a), y(b)) for a, b in points] for points in sets]
    values = None
    if reward is not None:
        columns = document["rewards"][reward]
        values = [columns[0], columns[place + 1]]
    shade_of, legend = _shades(values)

    def shaded(side: int, number: int) -> str:
        return dots(point for row, point in enumerate(placed[side]) if shade_of(side, row) == number)

    shades = [(number, shaded(0, number), shaded(1, number)) for number in range(N_SHADES)]
    joined = zip(*placed, strict=True)
    pairs = [
        PairRow(
            seed=seed,
            base=document["images"][0][row],
            finetuned=document["images"][place + 1][row],
            moved=math.dist(sets[0][row], sets[1][row]),
            rewards=None if values is None else (values[0][row], values[1][row]),
        )
        for row, seed in enumerate(document["seeds"])
    ]
    return MapFigure(
        edge=_MAP_EDGE,
        lines="".join(line(pair) for pair in joined),
        shades=[shade for shade in shades if shade[1] or shade[2]],
        legend=legend,
        pairs=sorted(pairs, key=lambda pair: -pair.moved),
    )


def _shades(values: Sequence[Sequence[float]] | None) -> tuple[Any, list[str]]:
    """Which shade a sample has, and the bounds; the middle one for all where there is no reward."""
    if values is None:
        return (lambda side, row: N_SHADES // 2), []
    ordered = sorted(value for column in values for value in column)
    low, high = quantile(ordered, 0.02), quantile(ordered, 0.98)  # outliers would leave the rest one shade
    width = (high - low) / N_SHADES or 1.0

    def shade_of(side: int, row: int) -> int:
        return min(N_SHADES - 1, max(0, int((values[side][row] - low) / width)))

    return shade_of, [figure(low + k * width) for k in range(N_SHADES + 1)]


@dataclass(frozen=True)
class BarPanel:
    """A measure of several checkpoints with 95 % intervals; `marks` are (x, y, y_low, y_high, index)."""

    title: str
    width: int
    marks: list[tuple[float, float, float, float, int]]
    line: str
    base: float
    y_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, str]]


DIVERSITY_MEASURES = (
    ("vendi", "Vendi score", "effective number of different images"),
    ("mean_pairwise_distance", "Mean pairwise distance", "1 − cosine"),
    ("near_copies", "Near copies", "share of the samples"),
)


def diversity_panels(document: Mapping[str, Any], labels: Sequence[str]) -> list[BarPanel]:
    rows = document["diversity"]
    panels = []
    width = max(300, 70 + 34 * len(rows))
    x = Scale(-0.5, len(rows) - 0.5, _LEFT, width - _RIGHT)
    for key, title, _ in DIVERSITY_MEASURES:
        bounds = [bound for row in rows for bound in (row[key]["value"], *row[key]["interval"])]
        y = scale_for(bounds, start=_HEIGHT - _BOTTOM, end=_TOP)
        marks = [
            (x(place), y(row[key]["value"]), *(y(bound) for bound in row[key]["interval"]), place)
            for place, row in enumerate(rows)
        ]
        every = math.ceil(len(rows) / 8)
        panels.append(
            BarPanel(
                title=title,
                width=width,
                marks=marks,  # type: ignore[arg-type]
                line=line((mark[0], mark[1]) for mark in marks),
                base=marks[0][1],
                y_ticks=y.ticks,
                x_ticks=[(x(place), label) for place, label in enumerate(labels) if place % every == 0],
            )
        )
    return panels


@dataclass(frozen=True)
class RunSeries:
    """`number` picks the colour and the dash; the first is what was optimised."""

    label: str
    number: int
    optimised: bool
    path: str
    points: list[tuple[float, float, float, float]]
    """(x, y, y of the interval's low and high end)."""
    last: float | None


@dataclass(frozen=True)
class RunFigure:
    """Two panels over one x axis: rewards in standard deviations of the base, shares in percent."""

    width: int
    height: int
    split: float
    zero: float
    rewards: list[RunSeries]
    shares: list[RunSeries]
    reward_ticks: list[tuple[float, str]]
    share_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, str, str]]
    """(x, epoch, KL in nats)."""
    here: float | None
    """Where the checkpoint of the report is."""


def run_figure(report: OverOptimisationReport) -> RunFigure | None:
    """None where the run saved no epoch."""
    if not report.epochs:
        return None
    width, split, height = 760, 250, 430
    epochs = report.epochs
    x = Scale(0, max(1, epochs[-1].epoch), 92, width - 20)
    names = [row.name for row in report.rewards]
    changes = [change for epoch in epochs for name, change in epoch.rewards.items() if name in names]
    y = scale_for(changes, start=split - 22, end=14, around=(0.0,))
    shares = [epoch.diversity_ratio for epoch in epochs if epoch.diversity_ratio is not None]
    highest = max([1.0, *shares])
    s = Scale(0.0, max(1.05, highest * 1.05), height - 48, split + 14)
    rewards = []
    for number, row in enumerate(sorted(report.rewards, key=lambda row: not row.optimised)):
        points = [(x(0), y(0.0))] + [
            (x(epoch.epoch), y(epoch.rewards[row.name])) for epoch in epochs if row.name in epoch.rewards
        ]
        last = next((epoch.rewards[row.name] for epoch in reversed(epochs) if row.name in epoch.rewards), None)
        rewards.append(_series(row.label, number, points, optimised=row.optimised, last=last))
    share_rows = []
    if shares:
        points = [(x(0), s(1.0))] + [
            (x(epoch.epoch), s(epoch.diversity_ratio)) for epoch in epochs if epoch.diversity_ratio is not None
        ]
        share_rows.append(_series("Diversity, share of the base's", 0, points, last=shares[-1]))
    asked = [(epoch.epoch, epoch.win_rate) for epoch in epochs if epoch.win_rate is not None]
    if asked:
        found = [(x(epoch), rate.value, rate.interval) for epoch, rate in asked if rate.value is not None]
        share_rows.append(
            RunSeries(
                label="People prefer it to the base",
                number=1,
                optimised=False,
                path=line((px, s(value)) for px, value, _ in found),
                points=[(px, s(value), s((span or (value, value))[0]), s((span or (value, value))[1]))
                        for px, value, span in found],
                last=found[-1][1],
            )
        )  # fmt: skip
    every = math.ceil(len(epochs) / 12)
    here = next((x(epoch.epoch) for epoch in epochs if epoch.checkpoint_id == report.checkpoint_id), None)
    return RunFigure(
        width=width,
        height=height,
        split=split,
        zero=y(0.0),
        rewards=rewards,
        shares=share_rows,
        reward_ticks=y.ticks,
        share_ticks=[(s(value), f"{100 * value:.0f} %") for value in nice_values(0, s.high, 4)],
        x_ticks=[(x(0), "base", "0")]
        + [(x(epoch.epoch), str(epoch.epoch), figure(epoch.kl_nats, 2)) for epoch in epochs[::-every][::-1]],
        here=here,
    )


def _series(
    label: str, number: int, points: list[tuple[float, float]], *, last: float | None, optimised: bool = False
) -> RunSeries:
    return RunSeries(
        label=label, number=number, optimised=optimised, path=line(points), last=last,
        points=[(px, py, py, py) for px, py in points],
    )  # fmt: skip


def _sem(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
