"""Checks a safetensors file from its header alone, without torch and without reading the weights."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from app.domain.errors import CorruptDataError

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_BYTES_OF = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


def check_safetensors(path: Path, name: str) -> None:
    """Refuse a file that is not whole: 8 bytes of header length, a JSON header, tensors that fill the rest exactly.

    Raises:
        CorruptDataError: says what is wrong with `name`.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise CorruptDataError(f"{name} is torn: {size} bytes are too few for a safetensors file.")
        (length,) = struct.unpack("<Q", start)
        if length > _MAX_HEADER_BYTES or 8 + length > size:
            raise CorruptDataError(f"{name} is not a safetensors file, or it is torn: its header does not fit into it.")
        header = stream.read(length)
    try:
        tensors = json.loads(header)
        spans = sorted(_span(entry) for key, entry in tensors.items() if key != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptDataError(f"{name} is not a safetensors file: its header cannot be read.") from error
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise CorruptDataError(f"{name} is corrupt: its tensors overlap or leave gaps.")
        end = stop
    if 8 + length + end != size:
        raise CorruptDataError(f"{name} is torn: its header promises {8 + length + end} bytes, it has {size}.")


def _span(entry: dict[str, Any]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    shape = entry["shape"]
    if not all(isinstance(edge, int) and edge >= 0 for edge in [*shape, begin, end]):
        raise ValueError("negative or fractional size")
    if end - begin != math.prod(shape) * _BYTES_OF[entry["dtype"]]:
        raise ValueError("shape and size disagree")
    return begin, end
