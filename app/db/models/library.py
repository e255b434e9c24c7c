"""What people keep about the library beside its rows: marks on samples, and the state of housekeeping."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonType


class SampleMark(Base):
    """A person's star, note and tags on one sample. Most samples have none, so the samples' own table stays narrow."""

    __tablename__ = "sample_mark"
    __table_args__ = (Index(None, "starred"),)

    sample_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id", ondelete="CASCADE"), primary_key=True)
    starred: Mapped[bool] = mapped_column(default=False)
    note: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[str]] = mapped_column(JsonType, default=list)
    updated_at: Mapped[datetime]


class LibraryState(Base):
    """Facts of which the installation has one each: the retention rule in force, the disk use last measured."""

    __tablename__ = "library_state"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]
