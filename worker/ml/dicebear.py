"""Pictures to pretrain on where no data set is at hand: avatars of a DiceBear style, rendered here, no two alike."""

import difflib
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from dicebear import Avatar, Style
from jaxtyping import UInt8
from PIL import Image

from app.domain.errors import InvalidSpecError, JobCancelledError, UnavailableError
from worker.ml.progress import Monitor

RENDER_SIZE = 256
"""Pixels an edge at which the vector graphic is drawn before Lanczos reduces it."""

_CHUNK = 16


def style_names() -> list[str]:
    """Names of the styles that are installed."""
    return sorted(Path(item.name).stem for item in files("dicebear_styles").iterdir() if item.name.endswith(".json"))


def style_credit(style: str) -> str:
    """Title, creator and licence of a style, for logs and model cards.

    Raises:
        InvalidSpecError: there is no such style.
    """
    meta = _definition(style)["meta"]
    return f"{meta['source']['name']} by {meta['creator']['name']}, {meta['license']['name']}"


def render_avatar(style: str, index: int, *, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The `index`-th avatar of a style: the same pixels whenever and wherever it is drawn."""
    svg = Avatar(_style(style), {"seed": f"{style}-{index}", "size": RENDER_SIZE}).to_string()
    with Image.open(BytesIO(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))) as drawn:
        on_white = Image.new("RGBA", drawn.size, "white")
        on_white.alpha_composite(drawn.convert("RGBA"))
    return np.asarray(on_white.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


def render_style(
    style: str, n: int, *, size: int, cache_dir: Path, monitor: Monitor, processes: int | None = None
) -> UInt8[np.ndarray, "n size size 3"]:
    """The first `n` avatars of a style as a read-only memory map, rendered in `processes` (default: one a core).

    The result is kept in `cache_dir` and read back from there the next time.

    Raises:
        InvalidSpecError: there is no such style; names near ones.
        UnavailableError: the disk has no room for the images.
        JobCancelledError: a cancel was asked for; nothing is kept.
    """
    credit = style_credit(style)
    cache_dir.mkdir(parents=True, exist_ok=True)
    path = cache_dir / f"dicebear-{style}-{version('dicebear-styles')}-{n}x{size}.npy"
    if not path.exists():
        monitor.log(f"Rendering {n} images: {credit}.")
        _render_to(path, style, n, size, monitor, processes or os.cpu_count() or 1)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _render_to(path: Path, style: str, n: int, size: int, monitor: Monitor, processes: int) -> None:
    needed, free = n * size * size * 3, shutil.disk_usage(path.parent).free
    if needed > free:
        raise UnavailableError(
            f"{n} images of {size} pixels need {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; "
            "make room or ask for fewer."
        )
    partial = path.with_suffix(f".{os.getpid()}.partial")
    images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(n, size, size, 3))
    # Spawned, not forked: the job that asks may hold a CUDA context and threads.
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        chunks = {
            pool.submit(_render_chunk, style, start, min(start + _CHUNK, n), size): start
            for start in range(0, n, _CHUNK)
        }
        done = 0
        for future in as_completed(chunks):
            part = future.result()
            images[chunks[future] : chunks[future] + len(part)] = part
            done += len(part)
            monitor.progress(done / n, stage=f"rendering {style}: {done} of {n}")
            if monitor.should_stop():
                raise JobCancelledError("Cancelled while the training images were being rendered; nothing was kept.")
        images.flush()
        partial.replace(path)
    finally:
        pool.shutdown(cancel_futures=True)
        partial.unlink(missing_ok=True)


def _render_chunk(style: str, start: int, stop: int, size: int) -> UInt8[np.ndarray, "m size size 3"]:
    return np.stack([render_avatar(style, index, size=size) for index in range(start, stop)])


@lru_cache(maxsize=8)
def _style(style: str) -> Style:
    return Style(_definition(style))


def _definition(style: str) -> dict[str, Any]:
    known = style_names()
    if style not in known:
        near = difflib.get_close_matches(style, known, n=5, cutoff=0.4) or known
        message = f"no DiceBear style is called {style!r}; did you mean {', '.join(near)}?"
        raise InvalidSpecError(f"N{message[1:]}", [{"field": "spec.data.style", "message": message}])
    definition: dict[str, Any] = json.loads(files("dicebear_styles").joinpath(f"{style}.json").read_text("utf-8"))
    return definition
