"""PNG blobs hold the pixels and nothing else; sheets keep every image whole."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.adapters.blobs import BlobStore
from app.domain.errors import CorruptDataError, JobError
from worker.jobs.images import encode_png, load_image, load_images
from worker.jobs.pretrain import tile


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def test_pixels_survive_and_carry_no_metadata(blobs: BlobStore) -> None:
    image = noise(16, 24, 3)
    data = encode_png(image)
    np.testing.assert_array_equal(load_image(blobs, blobs.put(data)), image)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.info == {}
    chunk_types = {
        data[i : i + 4] for i in range(len(data) - 3) if data[i : i + 4] in (b"tEXt", b"iTXt", b"eXIf", b"tIME")
    }
    assert chunk_types == set()


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"GIF89a" + data])
def test_a_blob_that_is_no_whole_png_is_refused(blobs: BlobStore, damage) -> None:  # type: ignore[no-untyped-def]
    sha256 = blobs.put(damage(encode_png(noise(64, 64, 3))))
    with pytest.raises(CorruptDataError, match="not a whole PNG"):
        load_image(blobs, sha256)


def test_images_of_different_sizes_cannot_be_measured_together(blobs: BlobStore) -> None:
    with pytest.raises(JobError, match="16x16, 8x8"):
        load_images(blobs, [blobs.put(encode_png(noise(size, size, 3))) for size in (8, 16)])


def test_a_sheet_holds_every_image_in_reading_order() -> None:
    images = noise(5, 4, 6, 3)
    sheet = tile(images)
    assert sheet.shape == (8, 18, 3)
    for k, image in enumerate(images):
        row, column = divmod(k, 3)
        np.testing.assert_array_equal(sheet[row * 4 : row * 4 + 4, column * 6 : column * 6 + 6], image)
    assert not sheet[4:, 12:].any()
