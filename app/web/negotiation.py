"""Picks an image format that the client accepts (RFC 9110, section 12.5.1)."""

from typing import get_args

from app.domain.errors import NotAcceptableError
from app.services.gallery import ImageFormat

_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)


def accepted_image_format(accept: str | None) -> ImageFormat:
    """The format that `Accept` likes best; PNG where it has no preference.

    Raises:
        NotAcceptableError: it refuses all of them.
    """
    ranges = [_parse(part) for part in (accept or "*/*").split(",") if part.strip()] or [("*/*", 1.0)]
    best = max(_FORMATS, key=lambda format: _quality(ranges, format))  # the first of equals, and PNG is the first
    if _quality(ranges, best) <= 0:
        offered = ", ".join(f"image/{format}" for format in _FORMATS)
        raise NotAcceptableError(f"This image can be sent as {offered}; ask for one of them or use ?format=.")
    return best


def _quality(ranges: list[tuple[str, float]], format: ImageFormat) -> float:
    by_range = dict(ranges)
    for pattern in (f"image/{format}", "image/*", "*/*"):  # the most specific range decides
        if pattern in by_range:
            return by_range[pattern]
    return 0.0


def _parse(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return media, 0.0
    return media, 1.0
