"""Uploaded images: what is refused before it is decoded, and that only pixels are kept."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.adapters.blobs import BlobStore
from app.domain.errors import InvalidSpecError, PayloadTooLargeError
from app.services.uploads import KEPT_EDGE, StoredImage, store_image

Store = Callable[..., StoredImage]


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path))


@pytest.fixture
def store(blobs: BlobStore) -> Store:
    def _store(data: bytes, *, max_bytes: int = 10_000_000) -> StoredImage:
        return store_image(blobs, data, max_bytes=max_bytes)

    return _store


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def stored_pixels(blobs: BlobStore, stored: StoredImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(blobs.get(stored.sha256))))


def striped(width: int, height: int) -> Image.Image:
    """Red left third, green middle, blue right: shows cropping and turning."""
    image = Image.new("RGB", (width, height), "lime")
    image.paste("red", (0, 0, width // 3, height))
    image.paste("blue", (2 * width // 3, 0, width, height))
    return image


def test_a_wide_picture_keeps_its_middle_square(store: Store, blobs: BlobStore) -> None:
    stored = store(encoded(striped(90, 30)))
    assert (stored.width, stored.height) == (30, 30)
    assert (stored_pixels(blobs, stored) == [0, 255, 0]).all()


def test_exif_turns_the_picture_and_is_dropped(store: Store, blobs: BlobStore) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn it a quarter to the right
    exif[0x010F] = "a camera that names its owner"
    stored = store(encoded(striped(48, 48), exif=exif))
    pixels = stored_pixels(blobs, stored)
    assert (pixels[0] == [255, 0, 0]).all()
    assert (pixels[-1] == [0, 0, 255]).all()
    kept = blobs.get(stored.sha256)
    assert b"camera" not in kept
    assert b"eXIf" not in kept


def test_what_is_kept_is_written_anew(store: Store, blobs: BlobStore) -> None:
    clean = encoded(striped(32, 32))
    stored = store(clean + b"<script>alert(1)</script>")
    kept = blobs.get(stored.sha256)
    assert b"script" not in kept
    assert kept.startswith(b"\x89PNG")
    assert store(encoded(striped(32, 32), compress_level=0)).sha256 == stored.sha256


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_other_formats_become_png(store: Store, blobs: BlobStore, format: str) -> None:
    stored = store(encoded(Image.new("RGB", (40, 40), (10, 200, 30)), format, quality=95))
    assert blobs.get(stored.sha256).startswith(b"\x89PNG")
    assert np.abs(stored_pixels(blobs, stored).astype(int) - [10, 200, 30]).max() <= 4


def test_transparency_lies_on_grey(store: Store, blobs: BlobStore) -> None:
    stored = store(encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0))))
    assert (stored_pixels(blobs, stored) == 128).all()


def test_a_large_picture_is_shrunk(store: Store) -> None:
    stored = store(encoded(Image.new("L", (3000, 2000), 90)))
    assert (stored.width, stored.height) == (KEPT_EDGE, KEPT_EDGE)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises this many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("edge", [6000, 12_000, 60_000])
@pytest.mark.parametrize("filtering", ["default", "error"])
def test_a_decompression_bomb_is_refused_by_its_header(store: Store, edge: int, filtering: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(filtering)  # type: ignore[arg-type]
        with pytest.raises(PayloadTooLargeError, match="25 million"):
            store(bomb(edge, edge))


def test_a_file_that_is_too_large_is_refused_unread(store: Store) -> None:
    with pytest.raises(PayloadTooLargeError, match="at most 1,000"):
        store(b"\x89PNG" + b"0" * 2000, max_bytes=1000)


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (b"", "No file was chosen"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG, JPEG or WebP"),
        (encoded(Image.new("RGB", (64, 64)), "GIF"), "not a PNG, JPEG or WebP"),
        (encoded(Image.new("RGB", (64, 64)), "TIFF"), "not a PNG, JPEG or WebP"),
        (encoded(Image.effect_noise((64, 64), 50))[:900], "torn or not valid"),
        (encoded(Image.new("RGB", (64, 8))), "16 are needed"),
        (bomb(64, 64), "torn or not valid"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_the_reason(store: Store, data: bytes, because: str) -> None:
    with pytest.raises(InvalidSpecError, match=because) as refused:
        store(data)
    assert [error["field"] for error in refused.value.errors] == ["file"]
