"""SQL of uploaded images."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Upload
from app.db.queries.bulk import insert_or_ignore


def get_upload(session: Session, upload_id: UUID) -> Upload | None:
    return session.get(Upload, upload_id)


def newest_uploads(session: Session, *, limit: int) -> Sequence[Upload]:
    return session.scalars(select(Upload).order_by(Upload.created_at.desc(), Upload.id).limit(limit)).all()


def add_upload(session: Session, *, sha256: str, width: int, height: int, created_by: UUID, now: datetime) -> Upload:
    """The row of this picture, added if it is new."""
    row = {
        "id": uuid4(),
        "sha256": sha256,
        "width": width,
        "height": height,
        "created_by": created_by,
        "created_at": now,
    }
    insert_or_ignore(session, Upload, [row])
    return session.scalars(select(Upload).where(Upload.sha256 == sha256)).one()
