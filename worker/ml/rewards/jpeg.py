"""Compressibility and incompressibility (DDPO, arXiv:2305.13301, section 5): the size of the image as a JPEG file."""

import os
import tempfile
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import IO

import numpy as np
from PIL import Image

from worker.ml.rewards.base import Images, RewardInfo, RewardMap, RewardPlugin, Rewards, require_between
from worker.ml.rewards.host import RewardHost
from worker.ml.rewards.jpeg_blocks import block_kilobytes

_CORES = os.cpu_count() or 1
_POOL = ThreadPoolExecutor(max_workers=_CORES, thread_name_prefix="jpeg")
_WORTH_A_THREAD = 64 * 64
"""Pixels from which encoding, without the GIL, outweighs the Python around it; smaller images go in turn."""
_own = threading.local()


class JpegSize:
    """`sign` times the encoded size in kB of 1000 bytes; large images are encoded on all cores at once."""

    def __init__(self, *, sign: int, quality: float = 95) -> None:
        self._sign = sign
        self._quality = int(require_between("quality", quality, 1, 100))

    def __call__(self, images: Images) -> Rewards:
        parallel = len(images) > 1 and images[0].shape[0] * images[0].shape[1] >= _WORTH_A_THREAD
        slices = np.array_split(np.arange(len(images)), _CORES) if parallel else [np.arange(len(images))]
        work = _POOL.map if parallel else map
        parts = work(lambda rows: [self._kilobytes(images[row]) for row in rows], slices)
        return self._sign * np.fromiter(chain.from_iterable(parts), dtype=np.float64, count=len(images))

    def reward_map(self, images: Images) -> RewardMap:
        """`sign` times the kB of every 8x8 block."""
        return self._sign * block_kilobytes(images, quality=self._quality)

    def _kilobytes(self, image: np.ndarray) -> float:
        file = _scratch_file()
        file.seek(0)  # a longer image before this one may leave bytes behind it
        Image.fromarray(image).save(file, format="JPEG", quality=self._quality)
        return file.tell() / 1000


def _scratch_file() -> IO[bytes]:
    """This thread's file in memory. Pillow lets other threads run while it writes to a file, not to a BytesIO."""
    if not hasattr(_own, "file"):
        if hasattr(os, "memfd_create"):
            _own.file = os.fdopen(os.memfd_create("jpeg"), "w+b", buffering=0)
        else:  # macOS
            _own.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # it lives as long as the thread
        weakref.finalize(threading.current_thread(), _own.file.close)
    file: IO[bytes] = _own.file
    return file


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
