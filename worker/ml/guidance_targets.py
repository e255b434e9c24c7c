"""Rewards as differentiable functions of RGB in [0, 1], for guidance; on decoded pixels they equal the rewards."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from app.domain.errors import JobError
from app.domain.guidance import require_gradient
from worker.ml.encoders import Encoder, ImageEncoder
from worker.ml.guidance import Target
from worker.ml.image_features import colour_maps
from worker.ml.reward_head import RewardHead

_LUMA = (0.299, 0.587, 0.114)
_SMALLEST = 1e-8
"""Below this a square root counts as flat: its slope at 0 is infinite."""


def pixel_target(reward: str) -> Target:
    """The target that raises a weight-free reward.

    Raises:
        JobError: the reward has no gradient, or is no function of the pixels alone.
    """
    require_gradient(reward)
    target = _PIXEL_TARGETS.get(reward)
    if target is None:
        raise JobError(f"The reward {reward!r} needs a reward model; name it by reward_model_id.")
    return target


def preference_target(encoder: Encoder, head: RewardHead) -> Target:
    """The target that raises a learned reward: colour maps and embedding through the mean of the heads.

    Raises:
        JobError: the encoder gives no gradient, or is not the one that the head was trained with.
    """
    if not isinstance(encoder, ImageEncoder):
        raise JobError(f"The encoder {encoder.name!r} gives no gradient, so its reward models cannot guide sampling.")
    weights = torch.from_numpy(head.weights.mean(axis=0)).float()
    bias = float(head.bias.mean())

    def reward(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        images = images.clamp(0, 1)
        features = torch.cat([colour_maps(images, smallest=_SMALLEST), encoder.embed(images).float()], dim=1)
        if features.shape[1] != len(weights):
            raise JobError(
                f"The reward model takes {len(weights)} features and the encoder {encoder.name} gives "
                f"{features.shape[1]}; use the encoder that it was trained with."
            )
        return features @ weights.to(images.device) + bias

    return reward


def _luma(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(_LUMA))


def _brightness(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    return _luma(images).mean(dim=(1, 2))


def _colourfulness(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Hasler and Suesstrunk (2003) on the 0-255 scale, as `rewards.pixels.colourfulness`."""
    red, green, blue = (255 * images).unbind(1)
    red_green = red - green
    yellow_blue = 0.5 * (red + green) - blue
    spread = sum(part.var(dim=(1, 2), correction=0) for part in (red_green, yellow_blue))
    distance = sum(part.mean(dim=(1, 2)).square() for part in (red_green, yellow_blue))
    return _root(cast(Tensor, spread)) + 0.3 * _root(cast(Tensor, distance))


def _sharpness(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    y = _luma(images)
    laplacian = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:] - 4 * y[:, 1:-1, 1:-1]
    return laplacian.square().mean(dim=(1, 2))


def _root(x: Tensor) -> Tensor:
    return x.clamp_min(_SMALLEST).sqrt()


_PIXEL_TARGETS: dict[str, Target] = {
    "brightness": _brightness,
    "colourfulness": _colourfulness,
    "sharpness": _sharpness,
}
