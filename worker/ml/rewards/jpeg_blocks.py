"""Where a JPEG file's bytes are: the length of every 8x8 block's code, as libjpeg's baseline coder writes it.

Tables are read from a real file's header (ITU-T T.81, annex B); what a block costs is annex F.1.2: Huffman codes of the
DC difference and of the runs of zeros between AC coefficients, plus the coefficients' own bits.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.fft import dctn

BLOCK = 8
_MCU = 2 * BLOCK
"""At Pillow's default subsampling (4:2:0) two chroma blocks belong to a square of four luma blocks."""

_QUANTISATION, _HUFFMAN, _SCAN = 0xDB, 0xC4, 0xDA
_END_OF_BLOCK, _SIXTEEN_ZEROS = 0x00, 0xF0
_DIAGONALS = sorted(
    range(BLOCK * BLOCK),
    key=lambda k: (k // 8 + k % 8, k // 8 if (k // 8 + k % 8) % 2 else k % 8),
)
_ZIGZAG = np.array(_DIAGONALS)


@dataclass(frozen=True)
class _Coder:
    """What codes one kind of plane (luma or chroma): divisors in zigzag order, code lengths by symbol."""

    divisors: Float[np.ndarray, " 64"]
    dc_lengths: Int[np.ndarray, " 256"]
    ac_lengths: Int[np.ndarray, " 256"]


def block_kilobytes(images: UInt8[np.ndarray, "n h w 3"], *, quality: int) -> Float[np.ndarray, "n h/8 w/8"]:
    """Length of every block's code in kB of 1000 bytes; a chroma block's is shared by the four blocks it covers.

    The sum over an image is its file's size without the header and the few stuffed bytes, within about 3 %: libjpeg
    rounds in integers, which shows in blocks that are nearly flat.

    Raises:
        ValueError: height or width is not a multiple of 16.
    """
    n, height, width, _ = images.shape
    if height % _MCU or width % _MCU:
        raise ValueError(f"JPEG's blocks fit images whose edges are multiples of {_MCU}, not {width}x{height}")
    luma, chroma = _coders(quality)
    planes = np.stack([np.asarray(Image.fromarray(image).convert("YCbCr")) for image in images]).astype(np.float64)
    rows, columns = height // BLOCK, width // BLOCK
    scan = np.arange(rows * columns).reshape(rows // 2, 2, columns // 2, 2).transpose(0, 2, 1, 3).reshape(-1)
    bits = _block_bits(planes[..., 0], luma, scan)
    for k in (1, 2):
        halved = planes[..., k].reshape(n, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
        shared = _block_bits(np.floor(halved + 0.5), chroma, np.arange(rows * columns // 4)) / 4
        bits += shared.repeat(2, axis=1).repeat(2, axis=2)
    return np.asarray(bits / 8000)


def _block_bits(
    plane: Float[np.ndarray, "n h w"], coder: _Coder, scan: Int[np.ndarray, " k"]
) -> Float[np.ndarray, "n h/8 w/8"]:
    """Bits of every block of one plane. `scan` is the order of the blocks in the file."""
    n, height, width = plane.shape
    blocks = plane.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(0, 1, 3, 2, 4) - 128
    coefficients = dctn(blocks, axes=(-2, -1), norm="ortho").reshape(n, -1, BLOCK * BLOCK)[..., _ZIGZAG]
    levels = np.rint(coefficients / coder.divisors).astype(np.int64)
    differences = np.empty_like(levels[..., 0])
    differences[:, scan] = np.diff(levels[:, scan, 0], axis=1, prepend=0)
    dc_size = _bit_length(differences)
    ac = levels[..., 1:]
    nonzero = ac != 0
    last = np.maximum.accumulate(np.where(nonzero, np.arange(1, 64), 0), axis=-1)
    run = np.arange(63) - np.concatenate([np.zeros_like(last[..., :1]), last[..., :-1]], axis=-1)
    ac_size = _bit_length(ac)
    code = coder.ac_lengths[(run % 16) << 4 | ac_size] + ac_size + run // 16 * coder.ac_lengths[_SIXTEEN_ZEROS]
    bits = coder.dc_lengths[dc_size] + dc_size + np.where(nonzero, code, 0).sum(axis=-1)
    bits = bits + np.where(nonzero[..., -1], 0, coder.ac_lengths[_END_OF_BLOCK])
    return np.asarray(bits.reshape(n, height // BLOCK, width // BLOCK), dtype=np.float64)


def _bit_length(values: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """How many bits the magnitude needs; 0 for 0."""
    return np.asarray(np.frexp(np.abs(values).astype(np.float64))[1], dtype=np.int64)


@lru_cache(maxsize=8)
def _coders(quality: int) -> tuple[_Coder, _Coder]:
    """The coders of luma and chroma that Pillow uses at `quality`."""
    buffer = io.BytesIO()
    Image.new("RGB", (_MCU, _MCU)).save(buffer, format="JPEG", quality=quality)
    divisors, lengths = _tables(buffer.getvalue())
    luma, chroma = (_Coder(divisors[k], lengths[0, k], lengths[1, k]) for k in (0, 1))
    return luma, chroma


def _tables(
    data: bytes,
) -> tuple[dict[int, Float[np.ndarray, " 64"]], dict[tuple[int, int], Int[np.ndarray, " 256"]]]:
    """(divisors by table, code lengths by (class, table)) from the segments before the scan."""
    divisors: dict[int, np.ndarray] = {}
    lengths: dict[tuple[int, int], np.ndarray] = {}
    position = 2
    while data[position + 1] != _SCAN:
        marker, size = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        segment = data[position + 4 : position + 2 + size]
        while marker == _QUANTISATION and segment:
            divisors[segment[0] & 15] = np.frombuffer(segment[1:65], np.uint8).astype(np.float64)
            segment = segment[65:]
        while marker == _HUFFMAN and segment:
            counts = np.frombuffer(segment[1:17], np.uint8)
            symbols = np.frombuffer(segment[17 : 17 + int(counts.sum())], np.uint8)
            table = np.zeros(256, dtype=np.int64)
            table[symbols] = np.repeat(np.arange(1, 17), counts)
            lengths[segment[0] >> 4, segment[0] & 15] = table
            segment = segment[17 + len(symbols) :]
        position += 2 + size
    return divisors, lengths
