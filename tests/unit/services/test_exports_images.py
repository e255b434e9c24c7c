"""Exports read back frame by frame."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from app.domain.errors import CorruptDataError, InvalidSpecError
from app.services.exports_images import MAX_IMAGES, animate, sheet

ARRAYS = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


IMAGES = [png(array) for array in ARRAYS]


def frames(data: bytes) -> tuple[list[np.ndarray], list[int]]:
    arrays, durations = [], []
    with Image.open(io.BytesIO(data)) as image:
        for index in range(image.n_frames):
            image.seek(index)
            arrays.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return arrays, durations


@pytest.mark.parametrize("format", ["webp", "gif"])  # 48 pixels fit a palette of 256, so a GIF loses nothing here
def test_every_frame_comes_back_in_order_and_the_last_is_held(format: str) -> None:
    arrays, durations = frames(animate(IMAGES, format=format, frame_ms=100, last_ms=900))
    np.testing.assert_array_equal(np.stack(arrays), ARRAYS)
    assert durations == [100, 100, 100, 100, 900]


def test_a_sheet_is_in_reading_order_with_gaps() -> None:
    with Image.open(io.BytesIO(sheet(IMAGES, columns=2))) as image:
        whole = np.asarray(image)
    assert whole.shape == (3 * 8 + 2 * 2, 2 * 6 + 2, 3)
    for index, array in enumerate(ARRAYS):
        top, left = index // 2 * 10, index % 2 * 8
        np.testing.assert_array_equal(whole[top : top + 8, left : left + 6], array)
    assert (whole[:, 6:8] == 119).all()
    assert (whole[20:, 8:] == 119).all()


def test_without_columns_a_sheet_is_about_square() -> None:
    with Image.open(io.BytesIO(sheet(IMAGES[:1] * 9))) as image:
        assert image.size == (3 * 6 + 4, 3 * 8 + 4)


def test_enlarging_repeats_pixels() -> None:
    with Image.open(io.BytesIO(sheet(IMAGES[:1], enlarge=3))) as image:
        np.testing.assert_array_equal(np.asarray(image), ARRAYS[0].repeat(3, axis=0).repeat(3, axis=1))


def test_an_export_carries_no_metadata() -> None:
    tagged = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "checkpoint 7"
    Image.fromarray(ARRAYS[0]).save(tagged, "PNG", exif=exif)
    for data in (sheet([tagged.getvalue()]), *(animate([tagged.getvalue()] * 2, format=f) for f in ("gif", "webp"))):
        assert b"checkpoint 7" not in data


@pytest.mark.parametrize("images", [[], IMAGES[:1] * (MAX_IMAGES + 1), [IMAGES[0], png(ARRAYS[0][:4])]])
def test_none_too_many_and_unequal_images_are_refused(images: list[bytes]) -> None:
    with pytest.raises(InvalidSpecError):
        sheet(images)
    with pytest.raises(InvalidSpecError):
        animate(images, format="gif")


def test_a_sheet_too_large_for_memory_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="pixels at most"):
        sheet([png(np.zeros((256, 256, 3), np.uint8))] * 100, enlarge=16)


@pytest.mark.parametrize("data", [b"", b"GIF89a", IMAGES[0][:60]])
def test_what_is_no_whole_png_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        sheet([IMAGES[0], data])


def test_a_decompression_bomb_is_refused_before_it_unfolds() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(CorruptDataError):
        sheet([bomb])
