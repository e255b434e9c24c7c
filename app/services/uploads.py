"""Uploaded images: bounded in every way before they are decoded, and never stored as they came."""

import io
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.models import Upload
from app.db.queries import uploads as queries
from app.domain.errors import InvalidSpecError, NotFoundError, PayloadTooLargeError
from app.services import audit
from app.services.accounts import Principal

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 25_000_000
"""Pixels of the picture as it was made; decoded they take about 100 MB."""
MIN_EDGE = 16
KEPT_EDGE = 1024
"""Longest edge of what is stored; no model here draws larger images."""

_FIELD = "file"


class UploadView(BaseModel):
    """An uploaded image as it was stored: a square PNG cut from the centre, without metadata."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "5f0c6c1e-0000-4000-8000-000000000000",
                "sha256": "0" * 64,
                "width": 512,
                "height": 512,
                "created_at": "2026-01-01T12:00:00Z",
                "links": {"image": "/media/" + "0" * 64},
            }
        }
    )

    id: UUID
    sha256: str
    width: int
    height: int
    created_at: datetime
    links: dict[str, str] = Field(description="`image` is the stored PNG.")


@dataclass(frozen=True)
class StoredImage:
    """A picture in the blob store, ready to be recorded."""

    sha256: str
    width: int
    height: int


def store_image(blobs: BlobStore, data: bytes, *, max_bytes: int) -> StoredImage:
    """Check, decode, turn upright, cut square, shrink and store. Takes time and no transaction.

    Raises:
        PayloadTooLargeError: more bytes or pixels than are accepted.
        InvalidSpecError: no image, not one of `FORMATS`, torn, or too small; says which.
    """
    if not data:
        raise _refused("No file was chosen; choose a PNG, JPEG or WebP image.")
    if len(data) > max_bytes:
        raise PayloadTooLargeError(f"The file has {len(data):,} bytes; at most {max_bytes:,} are accepted.")
    picture = _decode(data)
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    square = picture.crop((left, top, left + edge, top + edge))
    if edge > KEPT_EDGE:
        square = square.resize((KEPT_EDGE, KEPT_EDGE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    Image.frombytes("RGB", square.size, square.tobytes()).save(out, "PNG")  # pixels alone: no EXIF, no colour profile
    return StoredImage(blobs.put(out.getvalue()), square.width, square.height)


def add_upload(session: Session, who: Principal, stored: StoredImage, now: datetime) -> UploadView:
    """Record a stored image; the same picture again is the same upload."""
    row = queries.add_upload(
        session, sha256=stored.sha256, width=stored.width, height=stored.height, created_by=who.user_id, now=now
    )
    audit.record(session, who.user_id, "image.upload", row.id, now, sha256=row.sha256)
    return view_upload(row)


def get_upload(session: Session, upload_id: UUID) -> UploadView:
    """Raises NotFoundError."""
    row = queries.get_upload(session, upload_id)
    if row is None:
        raise NotFoundError(f"There is no uploaded image {upload_id}.")
    return view_upload(row)


def newest_uploads(session: Session, *, limit: int = 12) -> list[UploadView]:
    return [view_upload(row) for row in queries.newest_uploads(session, limit=limit)]


def view_upload(row: Upload) -> UploadView:
    return UploadView(
        id=row.id,
        sha256=row.sha256,
        width=row.width,
        height=row.height,
        created_at=row.created_at,
        links={"image": f"/media/{row.sha256}"},
    )


def _decode(data: bytes) -> Image.Image:
    """The first frame, upright, RGB on a grey ground. The size is read from the header before any pixel is decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PayloadTooLargeError(
                    f"The image is {image.width} x {image.height} pixels; at most {MAX_PIXELS // 10**6} million are "
                    "accepted. Make it smaller."
                )
            if min(image.size) < MIN_EDGE:
                raise _refused(
                    f"The image is {image.width} x {image.height} pixels; {MIN_EDGE} are needed on its shorter edge."
                )
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                ground = Image.new("RGBA", upright.size, (128, 128, 128, 255))
                return Image.alpha_composite(ground, upright.convert("RGBA")).convert("RGB")
            return upright.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PayloadTooLargeError(
            f"The image has too many pixels; at most {MAX_PIXELS // 10**6} million are accepted. Make it smaller."
        ) from error
    except UnidentifiedImageError as error:
        raise _refused("The file is not a PNG, JPEG or WebP image.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _refused("The image is torn or not valid; save it anew and try again.") from error


def _refused(message: str) -> InvalidSpecError:
    return InvalidSpecError(message, [{"field": _FIELD, "message": message}])
