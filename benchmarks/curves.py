"""Learning curves of finetunes on the bundled model: recorded on fixed seeds, drawn as a small SVG."""

import copy
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import torch
from PIL import Image

from app.domain.bundled import BUNDLED
from app.domain.specs import FinetuneSpec
from worker.ml.ddpo import finetune
from worker.ml.policy import Policy, load_policy
from worker.ml.progress import SilentMonitor
from worker.ml.rewards import Images, Reward

COLOURS = ("#2f6fb0", "#c2571a", "#2e7d4f", "#8a4fa3", "#8c6d1f", "#b03a5b", "#3d8f97", "#666666")
_BASE = UUID(int=0)


@dataclass
class Curve:
    """Reward on the fixed seeds against what was spent to get there; entry 0 is the base."""

    name: str
    epochs: list[int] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    sems: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    """Network evaluations of sampling and learning; those of measuring are left out."""
    seconds: list[float] = field(default_factory=list)
    """Since the start, measuring included."""

    @property
    def gain(self) -> float:
        return self.means[-1] - self.means[0]

    @property
    def standard_errors(self) -> float:
        """The gain in standard errors of the difference, the two sets of samples taken as independent."""
        return self.gain / float(np.hypot(self.sems[0], self.sems[-1]))


class Recorder(SilentMonitor):
    """A run's monitor and its sink."""

    def __init__(self, name: str) -> None:
        self.curve = Curve(name)
        self.first: Images | None = None
        self.last: Images | None = None
        self._started = time.perf_counter()
        self._spent = 0

    def metrics(self, row: Any) -> None:
        self._spent += int(row.get("network_evaluations", 0))  # the base was not trained
        if "eval_reward_mean" in row:
            self.curve.evaluations.append(self._spent)

    def save_state(self, epoch: int, path: Path) -> None:
        """The file in the run's folder is enough."""

    def evaluated(self, epoch: int, policy: Policy, seeds: Sequence[int], images: Images, rewards: Any) -> None:
        self.first = images if self.first is None else self.first
        self.last = images
        curve = self.curve
        curve.epochs.append(epoch)
        curve.means.append(float(rewards.mean()))
        curve.sems.append(float(rewards.std(ddof=1) / np.sqrt(len(rewards))))
        curve.seconds.append(round(time.perf_counter() - self._started, 1))
        print(f"{curve.name}: epoch {epoch}, {curve.means[-1]:.4f} ± {curve.sems[-1]:.4f}, {curve.seconds[-1]:.0f} s")


def make_spec(fields: dict[str, Any]) -> FinetuneSpec:
    return FinetuneSpec.model_validate({"checkpoint_id": _BASE, **fields})


def learn(name: str, spec: FinetuneSpec, reward: Reward, policy: Policy | None = None) -> Recorder:
    """Finetune a copy of the bundled model; the recorder has the curve and the first and last samples."""
    recorder = Recorder(name)
    with tempfile.TemporaryDirectory() as folder:
        finetune(
            copy.deepcopy(policy) if policy else load_policy(BUNDLED["critters-64"]),
            spec,
            reward,
            sink=recorder,
            monitor=recorder,
            workdir=Path(folder),
        )
    return recorder


def conditions() -> dict[str, object]:
    """What the numbers were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def sheet(images: Images, path: Path, columns: int = 8) -> None:
    """A PNG of the images, row by row."""
    rows = [np.concatenate(list(images[start : start + columns]), axis=1) for start in range(0, len(images), columns)]
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


def chart(series: Sequence[tuple[str, Sequence[float], Sequence[float], Sequence[float]]], x: str, y: str) -> str:
    """SVG of (name, x, y, half-width of the band) a line."""
    width, height, left, bottom, right, top = 640, 320, 60, 44, 190, 12
    xs, lows, highs = (
        np.concatenate([np.asarray(part, dtype=float) for part in parts])
        for parts in (
            [s[1] for s in series],
            [np.subtract(s[2], s[3]) for s in series],
            [np.add(s[2], s[3]) for s in series],
        )
    )
    x_max, y_min, y_max = float(xs.max()), float(lows.min()), float(highs.max())

    def at(x_value: float, y_value: float) -> str:
        across = left + x_value / x_max * (width - left - right)
        return f"{across:.1f},{height - bottom - (y_value - y_min) / (y_max - y_min) * (height - bottom - top):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11" fill="#444"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        level = y_min + share * (y_max - y_min)
        start, end = at(0, level), at(x_max, level)
        parts.append(f'<polyline points="{start} {end}" stroke="#e3e3e3"/>')
        parts.append(f'<text x="{left - 6}" y="{float(start.split(",")[1]) + 4}" text-anchor="end">{level:.3g}</text>')
        tick = at(share * x_max, y_min).split(",")[0]
        parts.append(f'<text x="{tick}" y="{height - bottom + 16}" text-anchor="middle">{share * x_max:,.0f}</text>')
    for number, (name, x_values, y_values, band) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        over = [at(*point) for point in zip(x_values, np.add(y_values, band), strict=True)]
        under = [at(*point) for point in zip(x_values, np.subtract(y_values, band), strict=True)]
        line = [at(*point) for point in zip(x_values, y_values, strict=True)]
        parts.append(f'<polygon points="{" ".join(over + under[::-1])}" fill="{colour}" opacity="0.15"/>')
        parts.append(f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{width - right + 10}" y="{top + 14 + 16 * number}" fill="{colour}">{escape(name)}</text>'
        )
    middle = (left + width - right) / 2
    parts.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{escape(x)}</text>')
    parts.append(
        f'<text transform="translate(14 {height / 2}) rotate(-90)" text-anchor="middle">{escape(y)}</text></svg>'
    )
    return "\n".join(parts) + "\n"
