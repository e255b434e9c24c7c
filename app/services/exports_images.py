"""Transitions as one file: the images of a seed at every checkpoint as a GIF, an animated WebP or a PNG sheet."""

import io
import math
from collections.abc import Sequence
from typing import Literal

from PIL import Image, UnidentifiedImageError

from app.domain.errors import CorruptDataError, InvalidSpecError

Format = Literal["gif", "webp", "png"]
MEDIA_TYPES: dict[Format, str] = {"gif": "image/gif", "webp": "image/webp", "png": "image/png"}

MAX_IMAGES = 400
MAX_PIXELS = 64_000_000
"""Of a whole export, all frames together."""
_GAP = 2
_SURROUND = (119, 119, 119)  # the pages' neutral grey


def animate(
    images: Sequence[bytes],
    *,
    format: Literal["gif", "webp"],
    frame_ms: int = 250,
    last_ms: int = 1500,
    enlarge: int = 1,
) -> bytes:
    """PNG images as the frames of one looping animation, without metadata; the last one is held longer.

    WebP is lossless; a GIF has one palette of 256 colours a frame, without dithering, which would crawl.

    Args:
        enlarge: whole factor; pixels stay crisp.

    Raises:
        InvalidSpecError: no images, too many or too large ones, or images of different sizes.
        CorruptDataError: one of them is not a whole PNG.
    """
    frames = _open(images, enlarge)
    durations = [frame_ms] * (len(frames) - 1) + [last_ms]
    out = io.BytesIO()
    if format == "webp":
        first, *rest = frames
        first.save(out, "WEBP", save_all=True, append_images=rest, duration=durations, loop=0, lossless=True)
    else:
        first, *rest = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
        first.save(out, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, disposal=1)
    return out.getvalue()


def sheet(images: Sequence[bytes], *, columns: int | None = None, enlarge: int = 1) -> bytes:
    """PNG images side by side in reading order as one PNG, on neutral grey with a narrow gap.

    Args:
        columns: None makes the sheet about square.

    Raises:
        InvalidSpecError: no images, too many or too large ones, or images of different sizes.
        CorruptDataError: one of them is not a whole PNG.
    """
    tiles = _open(images, enlarge)
    across = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    down = math.ceil(len(tiles) / across)
    width, height = tiles[0].size
    size = (across * (width + _GAP) - _GAP, down * (height + _GAP) - _GAP)
    whole = Image.new("RGB", size, _SURROUND)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, across)
        whole.paste(tile, (column * (width + _GAP), row * (height + _GAP)))
    out = io.BytesIO()
    whole.save(out, "PNG")
    return out.getvalue()


def _open(images: Sequence[bytes], enlarge: int) -> list[Image.Image]:
    if not 1 <= len(images) <= MAX_IMAGES:
        raise InvalidSpecError(f"An export holds 1 to {MAX_IMAGES} images, not {len(images)}.")
    if not 1 <= enlarge <= 16:
        raise InvalidSpecError(f"Images can be enlarged 1 to 16 times, not {enlarge} times.")
    opened = []
    for data in images:
        try:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                opened.append(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise CorruptDataError(f"An image of this export is not a whole PNG: {error}") from error
    width, height = opened[0].size
    if any(image.size != (width, height) for image in opened):
        raise InvalidSpecError("The images of an export must be of one size.")
    if len(opened) * width * height * enlarge**2 > MAX_PIXELS:
        raise InvalidSpecError(f"An export holds {MAX_PIXELS:,} pixels at most; choose fewer images or enlarge less.")
    if enlarge == 1:
        return opened
    return [image.resize((width * enlarge, height * enlarge), Image.Resampling.NEAREST) for image in opened]
