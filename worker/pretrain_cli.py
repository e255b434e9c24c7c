"""`tastemaker pretrain`: train a DDPM on this machine without a server, into a `diffusers` folder.

Ctrl-C stores a resumable state; the same command again goes on from it.
"""

import math
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import UInt8
from PIL import Image
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from app.domain.enums import JobKind
from app.domain.errors import InvalidSpecError, JobCancelledError, TastemakerError
from app.domain.specs import PretrainSpec, parse_spec
from worker.ml.dicebear import render_style
from worker.ml.policy import load_policy, save_policy
from worker.ml.pretrain import load_folder, pretrain
from worker.ml.pretrained import BUNDLED
from worker.ml.progress import Metric

_STATE = "state.safetensors"


class _Console:
    """A monitor that draws a progress bar and stops at Ctrl-C."""

    def __init__(self, bar: Progress, log: Path) -> None:
        self._bar = bar
        self._task = bar.add_task("Starting", total=1.0)
        self._log = log
        self._stopped = False
        signal.signal(signal.SIGINT, self._stop)

    def progress(self, fraction: float, *, stage: str) -> None:
        self._bar.update(self._task, completed=fraction, description=stage)

    def log(self, message: str) -> None:
        self._bar.console.print(message)

    def metrics(self, row: Mapping[str, Metric]) -> None:
        line = " ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
        )
        with self._log.open("a") as out:
            out.write(line + "\n")

    def should_stop(self) -> bool:
        return self._stopped

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopped = True


class _FolderSink:
    """Keeps the newest state (the trainer wrote it where it belongs) and every sheet of samples."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def save_state(self, step: int, path: Path) -> None:
        if path != self._out / _STATE:
            path.replace(self._out / _STATE)

    def sheet(self, step: int, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        n, height, width, _ = images.shape
        columns = math.isqrt(n)
        rows = images[: n // columns * columns].reshape(-1, columns, height, width, 3)
        grid = rows.transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, 3)
        Image.fromarray(grid).save(self._out / f"samples-{step:07d}.png")


def run(
    out: Annotated[Path, typer.Option(help="Folder for the model, its log, sheets and resumable state.")],
    images: Annotated[Path | None, typer.Option(help="Train on this folder of images instead of a style.")] = None,
    style: Annotated[str, typer.Option(help="DiceBear style to render.")] = "critters",
    n: Annotated[int, typer.Option(help="How many images of the style to render.")] = 3000,
    size: Annotated[int, typer.Option(help="Edge of the images in pixels.")] = 64,
    steps: Annotated[int, typer.Option(help="Updates.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Images an update.")] = 32,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 6e-4,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights.")] = 0.998,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    save_every: Annotated[int, typer.Option(help="Updates between two states and sheets.")] = 200,
    init: Annotated[str | None, typer.Option(help="Go on from a bundled model or a diffusers folder.")] = None,
) -> None:
    """Train a DDPM (Algorithm 1) and save it as a diffusers folder. The defaults reproduce critters-64's recipe."""
    spec = _spec(
        style=style,
        n=n,
        size=size,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        ema=ema,
        seed=seed,
        save_every=save_every,
    )
    out.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        monitor = _Console(bar, out / "training.log")
        data = load_folder(images, size) if images is not None else render_style(
            style, n, size=size, cache_dir=out / "data", monitor=monitor
        )  # fmt: skip
        policy = pretrain(
            spec,
            data,
            sink=_FolderSink(out),
            monitor=monitor,
            workdir=out,
            device="cuda" if torch.cuda.is_available() else "cpu",
            resume_from=out / _STATE if (out / _STATE).exists() else None,
            init=load_policy(BUNDLED.get(init, Path(init))) if init is not None else None,
        )
    save_policy(policy, out / "model")
    typer.echo(f"Saved {out / 'model'}; copy it into the models folder and register it, or open it with DDPMPipeline.")


def _spec(*, style: str, n: int, size: int, **rest: Any) -> PretrainSpec:
    payload = {"data": {"type": "dicebear", "style": style, "n": n}, "image_size": size, **rest}
    spec = parse_spec(JobKind.PRETRAIN, payload)
    assert isinstance(spec, PretrainSpec)
    return spec


def main() -> None:
    """Run the command; a refusal is one sentence on standard error and exit code 1."""
    try:
        typer.run(run)
    except JobCancelledError as stopped:
        sys.exit(f"tastemaker: {stopped.detail} Run the same command again to go on.")
    except InvalidSpecError as error:
        named = "; ".join(f"{item['field'].removeprefix('spec.')}: {item['message']}" for item in error.errors)
        sys.exit(f"tastemaker: {named or error.detail}")
    except TastemakerError as error:
        sys.exit(f"tastemaker: {error.detail}")


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
