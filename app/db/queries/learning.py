"""SQL of what is learned from votes: label snapshots, reward models, cached embeddings."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db.models import CampaignCheckpoint, Embedding, LabelSnapshot, RewardModel, SampleSketch
from app.db.queries.bulk import in_chunks, insert_or_ignore


def get_snapshot(session: Session, snapshot_id: UUID) -> LabelSnapshot | None:
    return session.get(LabelSnapshot, snapshot_id)


def get_reward_model(session: Session, reward_model_id: UUID) -> RewardModel | None:
    return session.get(RewardModel, reward_model_id)


def cached_embeddings(session: Session, encoder: str, image_sha256s: Sequence[str]) -> dict[str, bytes]:
    """The vectors that are known, by image hash: float32, little-endian."""
    found: dict[str, bytes] = {}
    for chunk in in_chunks(image_sha256s):
        rows = session.execute(
            select(Embedding.image_sha256, Embedding.vector).where(
                Embedding.encoder == encoder, Embedding.image_sha256.in_(chunk)
            )
        )
        found.update((digest, vector) for digest, vector in rows)
    return found


def cache_embeddings(session: Session, encoder: str, vectors: Mapping[str, bytes]) -> None:
    rows = [{"encoder": encoder, "image_sha256": digest, "vector": vector} for digest, vector in vectors.items()]
    insert_or_ignore(session, Embedding, rows)


def replace_sketches(session: Session, campaign_id: UUID, vectors: Sequence[tuple[UUID, bytes]]) -> None:
    """What pair selection knows of a campaign's samples from now on; see `SampleSketch`."""
    session.execute(delete(SampleSketch).where(SampleSketch.campaign_id == campaign_id))
    session.add_all(
        SampleSketch(campaign_id=campaign_id, position=position, sample_id=sample_id, vector=vector)
        for position, (sample_id, vector) in enumerate(vectors)
    )


def count_sketches(session: Session, campaign_id: UUID) -> int:
    """How many samples have one: constant time, since positions are dense."""
    last = session.scalar(select(func.max(SampleSketch.position)).where(SampleSketch.campaign_id == campaign_id))
    return 0 if last is None else last + 1


def sketches_at(session: Session, campaign_id: UUID, positions: Sequence[int]) -> dict[int, tuple[UUID, bytes]]:
    """(sample, vector) by position; one that is not there any more is left out."""
    found: dict[int, tuple[UUID, bytes]] = {}
    for chunk in in_chunks(dict.fromkeys(positions)):
        rows = session.execute(
            select(SampleSketch.position, SampleSketch.sample_id, SampleSketch.vector).where(
                SampleSketch.campaign_id == campaign_id, SampleSketch.position.in_(chunk)
            )
        )
        found.update((position, (sample_id, vector)) for position, sample_id, vector in rows)
    return found


def campaign_checkpoint_ids(session: Session, campaign_id: UUID) -> Sequence[UUID]:
    return session.scalars(
        select(CampaignCheckpoint.checkpoint_id)
        .where(CampaignCheckpoint.campaign_id == campaign_id)
        .order_by(CampaignCheckpoint.position)
    ).all()
