"""Images between arrays and PNG blobs."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from app.adapters.blobs import BlobStore
from app.domain.errors import CorruptDataError, JobError

Pixels = UInt8[np.ndarray, "h w 3"]


def encode_png(image: Pixels) -> bytes:
    """A PNG of the pixels and nothing else: no metadata could tell a rater where it comes from."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def load_image(blobs: BlobStore, sha256: str) -> Pixels:
    """The pixels of a stored sample.

    Raises:
        CorruptDataError: the blob is torn, or no image.
    """
    try:
        with Image.open(io.BytesIO(blobs.get(sha256)), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise CorruptDataError(f"Blob {sha256[:12]} is not a whole PNG image: {error}") from error


def load_images(blobs: BlobStore, sha256s: list[str]) -> UInt8[np.ndarray, "n h w 3"]:
    """Stored samples as one array.

    Raises:
        JobError: they are not all of one size.
    """
    images = [load_image(blobs, sha256) for sha256 in sha256s]
    sizes = {f"{image.shape[1]}x{image.shape[0]}" for image in images}
    if len(sizes) > 1:
        raise JobError(f"The samples are of different sizes ({', '.join(sorted(sizes))}); use checkpoints of one size.")
    return np.stack(images)
