"""What a reward head sees of an image: coarse colour and contrast maps beside the encoder's embedding.

A network trained to name objects forgets colours and places, which taste is often about; these maps keep them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

_COLOUR_CELLS, _WHITENESS_CELLS, _CONTRAST_CELLS = 8, 16, 8
_BORDER = 1 / 16
_BATCH = 64

COLOUR_BLOCKS: tuple[int, ...] = (3 * _COLOUR_CELLS**2, _WHITENESS_CELLS**2, _CONTRAST_CELLS**2)
"""Widths of the three maps in `colour_features`, in order: colour, whiteness, contrast to the border."""

COLOUR_DIM = sum(COLOUR_BLOCKS)


def colour_features(images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n k"]:
    """Colour and contrast maps of images of any size, as `COLOUR_BLOCKS` lists them; all values in [0, 1.74].

    - colour: mean RGB of the cells of an 8 x 8 grid;
    - whiteness: mean of the darkest channel in a 16 x 16 grid, which tells white from merely bright;
    - contrast: mean Euclidean distance to the median colour of the upper border, 8 x 8: where the figure is (the
      boundary prior of salient-object detection, Wei et al. 2012).
    """
    parts = [np.zeros((0, COLOUR_DIM), np.float32)]
    for start in range(0, len(images), _BATCH):
        pixels = torch.tensor(images[start : start + _BATCH]).permute(0, 3, 1, 2).float() / 255
        parts.append(colour_maps(pixels).numpy())
    return np.concatenate(parts)


def colour_maps(pixels: Float[Tensor, "b 3 h w"], *, smallest: float = 0.0) -> Float[Tensor, "b k"]:
    """The maps of `colour_features` for RGB in [0, 1]; differentiable where `smallest` is above 0.

    Args:
        smallest: squared distances below it count as it: the gradient of a distance of 0 does not exist.
    """
    border = _upper_border(pixels).median(dim=2).values
    distance = (pixels - border[:, :, None, None]).square().sum(dim=1, keepdim=True)
    contrast = distance.clamp_min(smallest).sqrt()
    maps = (
        F.adaptive_avg_pool2d(pixels, _COLOUR_CELLS),
        F.adaptive_avg_pool2d(pixels.amin(dim=1, keepdim=True), _WHITENESS_CELLS),
        F.adaptive_avg_pool2d(contrast, _CONTRAST_CELLS),
    )
    return torch.cat([part.flatten(1) for part in maps], dim=1)


def join_features(
    colours: Float[np.ndarray, "n k"], embeddings: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n k_plus_d"]:
    """The features of a reward head: colour maps first, then the embedding."""
    return np.concatenate([colours, embeddings], axis=1)


def feature_blocks(dim: int) -> tuple[int, ...]:
    """Widths of the blocks of `dim` joined features."""
    return (*COLOUR_BLOCKS, dim - COLOUR_DIM)


def _upper_border(pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 p"]:
    """Pixels along the top and along the upper halves of the sides; a figure often stands on the lower edge."""
    height, width = pixels.shape[-2:]
    rows, columns = max(1, round(height * _BORDER)), max(1, round(width * _BORDER))
    half = max(1, height // 2)
    strips = (pixels[..., :rows, :], pixels[..., :half, :columns], pixels[..., :half, -columns:])
    return torch.cat([strip.flatten(2) for strip in strips], dim=2)
