"""What is learned from votes: frozen label snapshots, reward models, cached embeddings."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, IdMixin


class LabelSnapshot(IdMixin, Base):
    """The frozen set of preferences that a reward model is trained on: a JSON-lines blob, named by its hash."""

    __tablename__ = "label_snapshot"

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id"), index=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    n_labels: Mapped[int]
    created_at: Mapped[datetime]


class RewardModel(IdMixin, Base):
    __tablename__ = "reward_model"
    __table_args__ = (Index(None, "created_at", "id"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id"), unique=True)
    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id"), index=True)
    snapshot_id: Mapped[UUID] = mapped_column(ForeignKey("label_snapshot.id"))
    name: Mapped[str] = mapped_column(String(120))
    encoder: Mapped[str] = mapped_column(String(80))
    blob_sha256: Mapped[str] = mapped_column(String(64))
    n_labels: Mapped[int]
    accuracy: Mapped[float | None]
    accuracy_low: Mapped[float | None]
    accuracy_high: Mapped[float | None]
    human_ceiling: Mapped[float | None]
    ece: Mapped[float | None]
    report: Mapped[dict[str, Any]]
    """Calibration bins, learning curve, seconds."""
    created_at: Mapped[datetime]


class SampleSketch(Base):
    """What pair selection knows of a sample: its reward by the campaign's newest model, and how sure that is.

    Positions are dense from 0, so that a random one is found in constant time. See `app.domain.uncertainty`.
    """

    __tablename__ = "sample_sketch"

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sample_id: Mapped[UUID] = mapped_column(ForeignKey("sample.id", ondelete="CASCADE"))
    vector: Mapped[bytes] = mapped_column(LargeBinary)


class Embedding(Base):
    """A frozen encoder's features, or a classifier's logits, of one image: float32, little-endian."""

    __tablename__ = "embedding"

    encoder: Mapped[str] = mapped_column(String(80), primary_key=True)
    image_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    vector: Mapped[bytes] = mapped_column(LargeBinary)
