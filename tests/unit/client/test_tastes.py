"""Attributes on hand-made pictures, and the habits of simulated raters."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.client.tastes import (
    TASTES,
    Rgb,
    SimulatedRater,
    eye_white,
    figure_area,
    green_figure,
    lightness,
    read_rgb,
    warm_background,
)
from app.domain.enums import Choice


def picture(background: tuple[int, int, int], figure: tuple[int, int, int] | None = None, *, width: int = 32) -> Rgb:
    """A figure `width` x 48 pixels standing on the lower edge of a 64-pixel picture."""
    image = np.full((64, 64, 3), background, np.uint8)
    if figure is not None:
        left = 32 - width // 2
        image[16:, left : left + width] = figure
    return image


def test_warmth_is_red_minus_blue_of_the_background_whatever_the_figure():
    for figure in (None, (0, 0, 255), (255, 0, 0)):
        assert warm_background(picture((204, 0, 51), figure)) == pytest.approx((204 - 51) / 255)


def test_lightness_is_luma():
    assert lightness(picture((255, 255, 255))) == pytest.approx(1)
    assert lightness(picture((0, 255, 0))) == pytest.approx(0.587)


def test_area_counts_the_figure_and_not_its_colour():
    for colour in ((255, 255, 255), (0, 255, 0)):
        assert figure_area(picture((80, 0, 0), colour, width=32)) == pytest.approx(32 * 48 / 64**2)
    assert figure_area(picture((80, 0, 0))) == 0


def test_greenness_is_the_figures_and_not_the_backgrounds():
    assert green_figure(picture((0, 0, 200), (51, 204, 51))) == pytest.approx(153 / 255)
    assert green_figure(picture((0, 200, 0), (255, 0, 255))) == pytest.approx(-1)
    assert green_figure(picture((0, 200, 0))) == 0


def test_eyes_count_white_beyond_the_figures_own_whiteness():
    def with_eyes(figure: tuple[int, int, int], size: int) -> Rgb:
        image = picture((20, 20, 60), figure)
        image[24 : 24 + size, 22 : 22 + size] = 255
        image[24 : 24 + size, 36 : 36 + size] = 255
        return image

    closed, small, large = (eye_white(with_eyes((120, 60, 60), size)) for size in (0, 4, 8))
    assert closed == 0
    face = (round(0.56 * 64) - round(0.24 * 64)) * (round(0.8 * 64) - round(0.2 * 64))
    assert small == pytest.approx(2 * 16 / face)
    assert large == pytest.approx(2 * 64 / face)
    assert eye_white(with_eyes((255, 255, 255), 8)) == 0


@pytest.mark.parametrize("taste", TASTES.values(), ids=TASTES)
def test_an_attribute_does_not_depend_on_the_size_of_the_picture(taste):
    image = picture((30, 80, 160), (200, 220, 90))
    image[26:32, 24:30] = 255
    doubled = image.repeat(2, axis=0).repeat(2, axis=1)
    assert taste.attribute(doubled) == pytest.approx(taste.attribute(image), abs=0.02)


def test_read_rgb_reads_what_the_server_sends():
    image = picture((1, 2, 3), (200, 100, 50))
    encoded = BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    assert np.array_equal(read_rgb(encoded.getvalue()), image)


LIGHT, DARK = picture((250, 250, 250)), picture((10, 10, 10))


def test_a_rater_without_error_always_prefers_more_of_the_attribute():
    rater = SimulatedRater(TASTES["bright"], error=0, seed=0)
    assert [rater.choose(LIGHT, DARK), rater.choose(DARK, LIGHT)] == [Choice.LEFT, Choice.RIGHT]


def test_pictures_that_look_the_same_are_a_tie():
    assert SimulatedRater(TASTES["bright"], error=0.5, seed=0).choose(LIGHT, LIGHT) is Choice.TIE


def test_errors_come_as_often_as_asked_for():
    rater = SimulatedRater(TASTES["bright"], error=0.2, seed=1)
    wrong = sum(rater.choose(LIGHT, DARK) is Choice.RIGHT for _ in range(2000))
    assert wrong / 2000 == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 2000))


def test_left_bias_shows_on_the_side_that_should_lose():
    rater = SimulatedRater(TASTES["bright"], error=0, seed=1, left_bias=0.3)
    left = sum(rater.choose(DARK, LIGHT) is Choice.LEFT for _ in range(2000))
    assert left / 2000 == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 2000))


def test_raters_with_the_same_seed_answer_alike_and_others_do_not():
    def answers(seed: int) -> list[Choice]:
        rater = SimulatedRater(TASTES["bright"], error=0.5, seed=seed)
        return [rater.choose(LIGHT, DARK) for _ in range(64)]

    assert answers(3) == answers(3)
    assert answers(3) != answers(4)


def test_an_error_rate_above_one_half_is_refused():
    with pytest.raises(ValueError, match="error"):
        SimulatedRater(TASTES["warm"], error=0.6, seed=0)
