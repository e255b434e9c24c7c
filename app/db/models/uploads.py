"""Images that people brought along."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, IdMixin


class Upload(IdMixin, Base):
    """An uploaded image, decoded and written anew as a square PNG without metadata; the file itself is not kept."""

    __tablename__ = "upload"
    __table_args__ = (Index(None, "created_at", "id"),)

    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    """Hash of the stored PNG; the same picture uploaded again is the same row."""
    width: Mapped[int]
    height: Mapped[int]
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id", ondelete="SET NULL"))
    created_at: Mapped[datetime]
