"""Models and what they draw: checkpoints, samples, rewards of both."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, IdMixin, JsonType, enum_type
from app.domain.enums import CheckpointKind


class Checkpoint(IdMixin, Base):
    """A `diffusers` folder in the blob store. `manifest_sha256` names a JSON blob `{"files": {path: sha256}}`."""

    __tablename__ = "checkpoint"
    __table_args__ = (Index(None, "created_at", "id"), UniqueConstraint("job_id", "epoch"))

    name: Mapped[str] = mapped_column(String(120))
    kind: Mapped[CheckpointKind] = mapped_column(enum_type(CheckpointKind))
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("checkpoint.id"), index=True)
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("job.id"))
    epoch: Mapped[int | None]
    source: Mapped[str] = mapped_column(String(500))
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    image_size: Mapped[int]
    diversity: Mapped[float | None]
    kl_nats: Mapped[float | None]
    tags: Mapped[list[str]] = mapped_column(JsonType, default=list)
    n_samples: Mapped[int] = mapped_column(default=0)
    """How many sample ordinals were handed out; the next sample gets this one."""
    starred: Mapped[bool] = mapped_column(default=False)
    note: Mapped[str] = mapped_column(Text, default="")
    n_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Size of its files; empty until housekeeping has measured them."""
    deleted_at: Mapped[datetime | None]
    """When it was put into the bin; it is purged some days later, and hidden until then."""
    created_at: Mapped[datetime]


class Measurement(Base):
    """Mean and standard error of one reward over the fixed seeds of a checkpoint."""

    __tablename__ = "measurement"

    checkpoint_id: Mapped[UUID] = mapped_column(ForeignKey("checkpoint.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    mean: Mapped[float]
    sem: Mapped[float]
    n: Mapped[int]


class Sample(IdMixin, Base):
    """An image with everything needed to draw it again: checkpoint, seed, steps, eta, guidance.

    `ordinal` numbers a checkpoint's samples from 0, so that a random one is found in constant time; guided ones count
    downward from -1, so that none is.
    """

    __tablename__ = "sample"
    __table_args__ = (
        UniqueConstraint("checkpoint_id", "seed", "steps", "eta", "guidance_key"),
        UniqueConstraint("checkpoint_id", "ordinal"),
        Index(None, "created_at", "id"),
        Index(None, "checkpoint_id", "created_at", "id"),
        Index(None, "job_id"),
        Index(None, "seed", "created_at", "id"),
    )

    checkpoint_id: Mapped[UUID] = mapped_column(ForeignKey("checkpoint.id"))
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("job.id"))
    ordinal: Mapped[int]
    seed: Mapped[int]
    steps: Mapped[int]
    eta: Mapped[float]
    guidance: Mapped[dict[str, Any] | None] = mapped_column(JsonType)
    guidance_key: Mapped[str] = mapped_column(String(64), default="")
    """SHA-256 of the guidance; empty without (NULLs would not be unique)."""
    width: Mapped[int]
    height: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime]


class SampleReward(Base):
    """One reward of one sample; `name` is the reward's name, with its model id for learned ones."""

    __tablename__ = "sample_reward"
    __table_args__ = (Index(None, "name", "value", "sample_id"),)

    sample_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    value: Mapped[float]
