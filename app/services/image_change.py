"""How far two stored images lie apart: a number to sort by and a picture to look at."""

import io
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from app.adapters.blobs import BlobStore
from app.domain.errors import ConflictError, CorruptDataError

if TYPE_CHECKING:  # numpy is imported with the first difference, not with the web process
    import numpy as np
    from numpy.typing import NDArray

AMPLIFIED = 3
"""The difference picture shows this many times the difference, so that small ones can be seen."""


@lru_cache(maxsize=50_000)
def rms_change(blobs: BlobStore, first: str, second: str) -> float | None:
    """Root mean square difference of two images over all pixels and channels, 0 to 255; None where sizes differ.

    Blobs never change, so a pair is computed once in the life of a process.
    """
    import numpy as np

    if first == second:
        return 0.0
    a, b = _pixels(blobs, first), _pixels(blobs, second)
    return float(np.sqrt(np.mean((a - b) ** 2))) if a.shape == b.shape else None


def difference_png(blobs: BlobStore, first: str, second: str) -> bytes:
    """|first - second|, amplified and clipped, black where nothing changed.

    Raises:
        ConflictError: the images have different sizes.
        NotFoundError, CorruptDataError: a blob is missing or no image.
    """
    import numpy as np

    a, b = _pixels(blobs, first), _pixels(blobs, second)
    if a.shape != b.shape:
        raise ConflictError(f"Images of {_size(a)} and {_size(b)} pixels cannot be subtracted; draw them at one size.")
    out = io.BytesIO()
    Image.fromarray(np.clip(np.abs(a - b) * AMPLIFIED, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def _pixels(blobs: BlobStore, digest: str) -> "NDArray[np.float32]":
    import numpy as np

    try:
        with Image.open(io.BytesIO(blobs.get(digest)), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float32)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise CorruptDataError(f"Blob {digest[:12]} is not a PNG image that can be decoded.") from error


def _size(pixels: "NDArray[np.float32]") -> str:
    return f"{pixels.shape[1]} × {pixels.shape[0]}"
