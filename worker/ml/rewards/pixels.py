"""Rewards computed from pixels alone: brightness, colourfulness, sharpness. They need no weights and run anywhere."""

import numpy as np
from jaxtyping import Float

from worker.ml.rewards.base import Images, RewardInfo, RewardMap, RewardPlugin, Rewards
from worker.ml.rewards.host import RewardHost

_TILE = 8
_LUMA = np.array([0.299, 0.587, 0.114])


def luma(images: Images) -> Float[np.ndarray, "n h w"]:
    """Rec. 601 luma in [0, 1]."""
    return np.asarray(images @ _LUMA / 255)


def brightness(images: Images) -> Rewards:
    """Mean luma in [0, 1]."""
    return np.asarray(luma(images).mean(axis=(1, 2)))


class Brightness:
    """`brightness` as a reward that knows where: the mean is a sum over squares of 8x8 pixels."""

    def __call__(self, images: Images) -> Rewards:
        return brightness(images)

    def reward_map(self, images: Images) -> RewardMap:
        """What every square adds to the mean.

        Raises:
            ValueError: the squares do not tile the images.
        """
        n, height, width, _ = images.shape
        if height % _TILE or width % _TILE:
            raise ValueError(f"squares of {_TILE} pixels do not tile images of {width}x{height}")
        squares = luma(images).reshape(n, height // _TILE, _TILE, width // _TILE, _TILE)
        return np.asarray(squares.sum(axis=(2, 4)) / (height * width))


def colourfulness(images: Images) -> Rewards:
    """Hasler and Süsstrunk (2003), on the 0-255 scale: sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2)."""
    red, green, blue = np.moveaxis(images.astype(np.float64), -1, 0)
    red_green = red - green
    yellow_blue = 0.5 * (red + green) - blue
    spread = np.sqrt(red_green.var(axis=(1, 2)) + yellow_blue.var(axis=(1, 2)))
    distance = np.sqrt(red_green.mean(axis=(1, 2)) ** 2 + yellow_blue.mean(axis=(1, 2)) ** 2)
    return np.asarray(spread + 0.3 * distance)


def sharpness(images: Images) -> Rewards:
    """Mean squared 4-neighbour Laplacian of the luma over the inner pixels."""
    y = luma(images)
    laplacian = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:] - 4 * y[:, 1:-1, 1:-1]
    return np.asarray((laplacian**2).mean(axis=(1, 2)))


def _brightness(_: RewardHost) -> RewardInfo:
    return RewardInfo(
        name="brightness",
        title="Brightness",
        description="Mean luma of the image.",
        unit="share of white",
        direction="higher means brighter",
        range=(0.0, 1.0),
        needs="",
    )


def _colourfulness(_: RewardHost) -> RewardInfo:
    return RewardInfo(
        name="colourfulness",
        title="Colourfulness",
        description="Hasler and Süsstrunk's colourfulness: spread and distance from grey of the opponent colours.",
        unit="8-bit levels",
        direction="higher means more vivid colours",
        range=(0.0, None),
        needs="",
    )


def _sharpness(_: RewardHost) -> RewardInfo:
    return RewardInfo(
        name="sharpness",
        title="Sharpness",
        description="Mean squared Laplacian of the luma.",
        unit="luma squared",
        direction="higher means harder edges",
        range=(0.0, None),
        needs="",
    )


PLUGINS = (
    RewardPlugin("brightness", _brightness, lambda _: Brightness()),
    RewardPlugin("colourfulness", _colourfulness, lambda _: colourfulness),
    RewardPlugin("sharpness", _sharpness, lambda _: sharpness),
)
