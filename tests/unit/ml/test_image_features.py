import numpy as np
import pytest

from worker.ml.image_features import COLOUR_BLOCKS, COLOUR_DIM, colour_features, feature_blocks, join_features


def maps(images):
    return np.split(colour_features(images), np.cumsum(COLOUR_BLOCKS)[:-1], axis=1)


def test_a_flat_picture_has_its_colour_everywhere_and_no_contrast():
    image = np.full((1, 64, 64, 3), (255, 51, 102), np.uint8)
    colour, whiteness, contrast = maps(image)
    np.testing.assert_allclose(colour.reshape(3, 64), np.array([[1.0], [0.2], [0.4]]).repeat(64, 1), rtol=1e-6)
    np.testing.assert_allclose(whiteness, 0.2, rtol=1e-6)
    np.testing.assert_allclose(contrast, 0, atol=1e-6)


def test_the_maps_are_means_over_cells():
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    colour, whiteness, _ = maps(image)
    pixels = image / 255
    cells = pixels.reshape(2, 8, 8, 8, 8, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(colour, cells.reshape(2, -1), rtol=1e-5)
    darkest = pixels.min(axis=3).reshape(2, 16, 4, 16, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(whiteness, darkest.reshape(2, -1), rtol=1e-5)


def test_contrast_is_the_distance_to_the_border_where_the_figure_is():
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, 32:, 16:48] = (0, 255, 0)
    contrast = maps(image)[2].reshape(8, 8)
    expected = np.zeros((8, 8))
    expected[4:, 2:6] = 1
    np.testing.assert_allclose(contrast, expected, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_size_of_the_picture_does_not_matter(factor):
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    larger = image.repeat(factor, axis=1).repeat(factor, axis=2)
    np.testing.assert_allclose(colour_features(larger), colour_features(image), atol=2e-3)


def test_batches_do_not_change_the_features():
    images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(colour_features(images)[69:], colour_features(images[69:]))
    assert colour_features(images[:0]).shape == (0, COLOUR_DIM)


def test_the_embedding_is_the_last_block():
    joined = join_features(np.zeros((3, COLOUR_DIM)), np.ones((3, 5)))
    assert feature_blocks(joined.shape[1]) == (*COLOUR_BLOCKS, 5)
    assert (joined[:, -5:] == 1).all()
