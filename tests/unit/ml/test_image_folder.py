import numpy as np
import pytest
from PIL import Image

from app.domain.errors import CorruptDataError
from worker.ml import image_folder
from worker.ml.image_folder import load_folder


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def test_pictures_come_in_the_order_of_their_names_from_all_subfolders(tmp_path):
    for value, name in [(30, "b/2.png"), (10, "a.png"), (20, "b/1.bmp")]:
        save(tmp_path / name, np.full((8, 8, 3), value))
    (tmp_path / "notes.txt").write_text("not a picture")
    assert load_folder(tmp_path, 8)[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_the_central_square_is_kept(tmp_path):
    wide = np.zeros((16, 48, 3))
    wide[:, 16:32] = 255
    save(tmp_path / "wide.png", wide)
    assert (load_folder(tmp_path, 16) == 255).all()


def test_transparent_pixels_become_white_and_grey_becomes_rgb(tmp_path):
    save(tmp_path / "1.png", np.zeros((8, 8, 4)))
    save(tmp_path / "2.png", np.full((8, 8), 77))
    clear, grey = load_folder(tmp_path, 8)
    assert (clear == 255).all()
    assert (grey == 77).all()


def test_the_cameras_orientation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((8, 8, 3))
    pixels[:4] = 255
    save(tmp_path / "turned.png", pixels, exif=exif)
    assert load_folder(tmp_path, 8)[0, -1].min() == 255


@pytest.mark.parametrize("length", [0, 20, 80])
def test_a_torn_picture_is_refused_by_name(tmp_path, length):
    save(tmp_path / "whole.png", np.zeros((8, 8, 3)))
    save(tmp_path / "sub" / "torn.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3)))
    torn = tmp_path / "sub" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:length])
    with pytest.raises(CorruptDataError, match=r"sub/torn\.png"):
        load_folder(tmp_path, 8)


def test_a_picture_that_claims_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(image_folder, "_MAX_PIXELS", 99)
    save(tmp_path / "bomb.png", np.zeros((10, 10, 3)))
    with pytest.raises(CorruptDataError, match=r"bomb\.png has 10 x 10 pixels"):
        load_folder(tmp_path, 8)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(CorruptDataError, match="holds no pictures"):
        load_folder(tmp_path, 8)
    with pytest.raises(CorruptDataError, match="no such folder"):
        load_folder(tmp_path / "missing", 8)
