"""A folder of pictures as training images: every file is checked, cropped to a square and reduced."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from app.domain.errors import CorruptDataError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
_MAX_PIXELS = 50_000_000
"""Larger pictures are refused before they are decoded: a small file can claim gigabytes."""


def load_folder(path: Path, size: int) -> UInt8[np.ndarray, "n size size 3"]:
    """Every picture under `path` (png, jpg, webp, bmp; in order of name): turned as its EXIF says, laid on white where
    it is transparent, cropped to the central square, resized by Lanczos.

    Raises:
        CorruptDataError: there is no such folder or no picture in it, or one is torn, no picture at all, or too large;
            names the file.
    """
    if not path.is_dir():
        raise CorruptDataError(f"{path.name}: there is no such folder.")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise CorruptDataError(f"{path.name} holds no pictures; known kinds: {', '.join(sorted(_SUFFIXES))}.")
    images = np.empty((len(files), size, size, 3), np.uint8)
    for row, file in enumerate(files):
        images[row] = _load(file, str(file.relative_to(path)), size)
    return images


def _load(file: Path, name: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
    try:
        with Image.open(file) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise CorruptDataError(
                    f"{name} has {image.width} x {image.height} pixels, more than {_MAX_PIXELS:,}; reduce it first."
                )
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptDataError(f"{name} cannot be read as a picture ({error}); repair or remove it.") from error
    on_white = Image.new("RGBA", upright.size, "white")
    on_white.alpha_composite(upright)
    return np.asarray(ImageOps.fit(on_white.convert("RGB"), (size, size), Image.Resampling.LANCZOS))
