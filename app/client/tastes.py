"""Simulated tastes for `tastemaker loop`: attributes of pixels that the system never sees but through votes.

Every attribute takes an RGB image (uint8, height x width x 3, any size) of a figure before a flat background.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.domain.enums import Choice

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float64]

_FIGURE_CONTRAST = 0.15
"""Colours farther than this from the background (Euclidean, channels in [0, 1], of at most 1.73) are the figure's."""

_EYE_ROWS, _EYE_COLUMNS = (0.24, 0.56), (0.2, 0.8)
"""Where eyes can be, as shares of the height and the width."""


@dataclass(frozen=True)
class Taste:
    """A preference for images with more of one attribute."""

    name: str
    title: str
    question: str
    unit: str
    """What the attribute counts, and its range."""
    attribute: Callable[[Rgb], float]
    indifference: float
    """Images whose attributes differ by less than this look the same to the rater: a tie."""


def read_rgb(encoded: bytes) -> Rgb:
    """The pixels of a PNG, JPEG or WebP file, as the attributes take them."""
    with Image.open(BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def warm_background(rgb: Rgb) -> float:
    """Red minus blue of the background colour, in [-1, 1]."""
    red, _, blue = _background(rgb / 255.0)
    return float(red - blue)


def lightness(rgb: Rgb) -> float:
    """Mean luma (Rec. 601) of the whole image, in [0, 1]."""
    return float((rgb / 255.0 @ np.array([0.299, 0.587, 0.114])).mean())


def figure_area(rgb: Rgb) -> float:
    """Share of the image that the figure covers, in [0, 1]."""
    return float(_figure(rgb / 255.0).mean())


def green_figure(rgb: Rgb) -> float:
    """Green minus the mean of red and blue over the figure, in [-1, 1]; 0 where there is no figure."""
    pixels = rgb / 255.0
    figure = pixels[_figure(pixels)]
    if len(figure) == 0:
        return 0.0
    red, green, blue = figure.mean(axis=0)
    return float(green - (red + blue) / 2)


def eye_white(rgb: Rgb) -> float:
    """Share of the face that is whiter than the rest of the figure, in [0, 1]: the whites of open eyes.

    A pixel counts fully where its darkest channel is 0.3 above the figure's own (median over the figure), so a pale
    figure has no more of it than a dark one.
    """
    pixels = rgb / 255.0
    whiteness = pixels.min(axis=2)
    figure = _figure(pixels)
    if not figure.any():
        return 0.0
    height, width = whiteness.shape
    rows = slice(*(round(share * height) for share in _EYE_ROWS))
    columns = slice(*(round(share * width) for share in _EYE_COLUMNS))
    excess = whiteness[rows, columns] - np.median(whiteness[figure])
    return float(np.clip(excess / 0.3, 0, 1).mean())


TASTES: Mapping[str, Taste] = MappingProxyType(
    {
        taste.name: taste
        for taste in (
            Taste(
                "warm",
                "Warm background",
                "Which one has the warmer background?",
                "red minus blue of the background, -1 to 1",
                warm_background,
                indifference=0.02,
            ),
            Taste(
                "bright",
                "Bright picture",
                "Which picture is brighter?",
                "mean luma, 0 to 1",
                lightness,
                indifference=0.005,
            ),
            Taste(
                "big",
                "Big creature",
                "Which creature is bigger?",
                "share of the image that the creature covers, 0 to 1",
                figure_area,
                indifference=0.01,
            ),
            Taste(
                "green",
                "Green creature",
                "Which creature is greener?",
                "green minus the mean of red and blue over the creature, -1 to 1",
                green_figure,
                indifference=0.01,
            ),
            Taste(
                "eyes",
                "Wide-open eyes",
                "Which one has the wider eyes?",
                "white share of the face, 0 to 1",
                eye_white,
                indifference=0.003,
            ),
        )
    }
)
"""Name -> taste."""


class SimulatedRater:
    """A rater with a taste, who errs.

    A pair that is not a tie is answered wrongly with probability `error` (0.5 is a coin flip); before that, with
    probability `left_bias`, the left image is chosen without looking, and with probability `laziness` the key of the
    last answer is pressed again. Answers depend on the seed and on how many were given before.
    """

    def __init__(self, taste: Taste, *, error: float, seed: int, left_bias: float = 0.0, laziness: float = 0.0) -> None:
        if not (0 <= error <= 0.5 and 0 <= left_bias <= 1 and 0 <= laziness <= 1):
            raise ValueError("error must lie in [0, 0.5], left_bias and laziness in [0, 1]")
        self.taste = taste
        self._error = error
        self._left_bias = left_bias
        self._laziness = laziness
        self._last = Choice.RIGHT
        self._hurried = False
        self._rng = np.random.default_rng(seed)

    @property
    def response_ms(self) -> int:
        """How long the last answer took: about 1.6 s, a sixth of it where the rater did not look."""
        return round(float(self._rng.lognormal(7.4, 0.5)) / (6 if self._hurried else 1))

    def choose(self, left: Rgb, right: Rgb) -> Choice:
        """The rater's vote on a pair of images: left, right or tie."""
        looks_away, errs = self._rng.random(2) < (self._left_bias, self._error)
        self._hurried = bool(looks_away) or (self._laziness > 0 and self._rng.random() < self._laziness)
        if looks_away:
            return Choice.LEFT
        if self._hurried:
            return self._last
        self._last = self._look(left, right, errs=bool(errs))
        return self._last

    def _look(self, left: Rgb, right: Rgb, *, errs: bool) -> Choice:
        difference = self.taste.attribute(left) - self.taste.attribute(right)
        if abs(difference) < self.taste.indifference:
            return Choice.TIE
        return Choice.LEFT if (difference > 0) != errs else Choice.RIGHT


def _background(pixels: Floats) -> Floats:
    """Colour of the background: the median of the upper corners and of the edges down to half the height."""
    height, width = pixels.shape[:2]
    border = max(1, width // 16)
    top = pixels[: max(1, height // 16)].reshape(-1, 3)
    sides = np.concatenate([pixels[: height // 2, :border], pixels[: height // 2, -border:]], axis=1).reshape(-1, 3)
    return np.asarray(np.median(np.concatenate([top, sides]), axis=0))


def _figure(pixels: Floats) -> NDArray[np.bool_]:
    """Where the image is not its background."""
    return np.asarray(np.linalg.norm(pixels - _background(pixels), axis=2) > _FIGURE_CONTRAST)
