"""Compressibility and incompressibility (DDPO, arXiv:2305.13301, section 5): the size of the image as a JPEG file."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch
import torchvision.io  # noqa: F401  # registers torch.ops.image

from app.domain.errors import InvalidSpecError
from worker.ml.rewards.base import Images, RewardInfo, RewardMap, RewardPlugin, Rewards, require_between
from worker.ml.rewards.host import RewardHost
from worker.ml.rewards.jpeg_blocks import block_kilobytes

_CORES = os.cpu_count() or 1
_POOL = ThreadPoolExecutor(max_workers=_CORES, thread_name_prefix="jpeg")
_WORTH_A_THREAD = 16 * 64 * 64
"""Pixels of a batch from which a second thread pays."""


class JpegSize:
    """`sign` times the encoded size in kB of 1000 bytes; large batches are encoded on all cores at once.

    torchvision's encoder writes the very bytes that Pillow's `save` does (both call libjpeg-turbo with its defaults),
    in half the time, and lets other threads run meanwhile. Its wrapper is deprecated for a package that needs FFmpeg;
    the operator behind it is not, and the version is pinned.
    """

    def __init__(self, *, sign: int, quality: float = 95) -> None:
        self._sign = sign
        self._quality = int(require_between("quality", quality, 1, 100))
        if self._quality != quality:
            raise InvalidSpecError(f"The reward parameter 'quality' must be a whole number, not {quality!r}.")

    def __call__(self, images: Images) -> Rewards:
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).permute(0, 3, 1, 2)
        if images.size // 3 < _WORTH_A_THREAD:
            sizes = self._bytes(pixels)
        else:
            sizes = list(chain.from_iterable(_POOL.map(self._bytes, pixels.tensor_split(_CORES))))
        return self._sign * np.array(sizes, dtype=np.float64) / 1000

    def reward_map(self, images: Images) -> RewardMap:
        """`sign` times the kB of every 8x8 block."""
        return self._sign * block_kilobytes(images, quality=self._quality)

    def _bytes(self, pixels: torch.Tensor) -> list[int]:
        return [torch.ops.image.encode_jpeg(image, self._quality).numel() for image in pixels]


def _compressibility(_: RewardHost) -> RewardInfo:
    return RewardInfo(
        name="jpeg_compressibility",
        title="JPEG compressibility",
        description="Minus the size of the image as a JPEG file of quality 95 (parameter `quality`).",
        unit="kB",
        direction="higher means a smaller file: smoother, plainer images",
        range=(None, 0.0),
        needs="",
    )


def _incompressibility(_: RewardHost) -> RewardInfo:
    return RewardInfo(
        name="jpeg_incompressibility",
        title="JPEG incompressibility",
        description="The size of the image as a JPEG file of quality 95 (parameter `quality`).",
        unit="kB",
        direction="higher means a larger file: richer texture and detail",
        range=(0.0, None),
        needs="",
    )


PLUGINS = (
    RewardPlugin("jpeg_compressibility", _compressibility, lambda _, **params: JpegSize(sign=-1, **params)),
    RewardPlugin("jpeg_incompressibility", _incompressibility, lambda _, **params: JpegSize(sign=1, **params)),
)
