"""SQL of deleting checkpoints: what depends on one, the bin, and purging for good."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Column, String, Table, cast, delete, func, select
from sqlalchemy.orm import Session

from app.db.base import Base
from app.db.models import Campaign, CampaignCheckpoint, Checkpoint, Embedding, Job, Sample
from app.db.queries.bulk import in_chunks
from app.domain.enums import JobStatus

_KNOWN = {("checkpoint", "parent_id"), ("campaign_checkpoint", "checkpoint_id"), ("sample", "checkpoint_id")}
_OPEN = (JobStatus.QUEUED, JobStatus.RUNNING)


def locked(session: Session, checkpoint_id: UUID) -> Checkpoint | None:
    """The checkpoint, with every new reference to it waiting until this transaction ends."""
    return session.scalar(
        select(Checkpoint)
        .where(Checkpoint.id == checkpoint_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


def children(session: Session, checkpoint_ids: Collection[UUID]) -> dict[UUID, list[Checkpoint]]:
    """What was finetuned from each of these and is not deleted."""
    found: dict[UUID, list[Checkpoint]] = defaultdict(list)
    for chunk in in_chunks(checkpoint_ids):
        rows = session.scalars(
            select(Checkpoint)
            .where(Checkpoint.parent_id.in_(chunk), Checkpoint.deleted_at.is_(None))
            .order_by(Checkpoint.created_at, Checkpoint.id)
        )
        for row in rows:
            assert row.parent_id is not None
            found[row.parent_id].append(row)
    return found


def campaigns_showing(session: Session, checkpoint_ids: Collection[UUID]) -> dict[UUID, list[Campaign]]:
    found: dict[UUID, list[Campaign]] = defaultdict(list)
    for chunk in in_chunks(checkpoint_ids):
        rows = session.execute(
            select(CampaignCheckpoint.checkpoint_id, Campaign)
            .join(Campaign, Campaign.id == CampaignCheckpoint.campaign_id)
            .where(CampaignCheckpoint.checkpoint_id.in_(chunk))
            .order_by(Campaign.created_at, Campaign.id)
        )
        for id, campaign in rows:
            found[id].append(campaign)
    return found


def open_jobs(session: Session) -> Sequence[Job]:
    return session.scalars(select(Job).where(Job.status.in_(_OPEN))).all()


def jobs_naming(session: Session, id: UUID, *, limit: int) -> Sequence[Job]:
    """Jobs whose spec names a thing by its id, newest first; parts are spoken for by their wholes.

    An id is unique in the whole database, so searching the spec's text finds those and no others.
    """
    return session.scalars(
        select(Job)
        .where(cast(Job.spec, String).contains(str(id)), Job.parent_id.is_(None))
        .order_by(Job.created_at.desc(), Job.id)
        .limit(limit)
    ).all()


def other_references(session: Session, checkpoint_id: UUID) -> dict[str, int]:
    """Rows of any other table that need the checkpoint or one of its samples, by table: those that keep the database
    from deleting it (foreign keys without ON DELETE)."""
    own = select(Sample.id).where(Sample.checkpoint_id == checkpoint_id)
    found: dict[str, int] = {}
    for table, column, target in _needing_keys():
        wanted = column == checkpoint_id if target == "checkpoint" else column.in_(own)
        n = session.scalar(select(func.count()).select_from(table).where(wanted)) or 0
        if n:
            found[table.name] = found.get(table.name, 0) + n
    return found


def has_other_references(session: Session, checkpoint_ids: Collection[UUID]) -> set[UUID]:
    """Which of these `other_references` would find something for."""
    found: set[UUID] = set()
    for chunk in in_chunks(checkpoint_ids):
        for table, column, target in _needing_keys():
            if target == "checkpoint":
                found.update(session.scalars(select(column).select_from(table).where(column.in_(chunk)).distinct()))
                continue
            found.update(
                session.scalars(
                    select(Sample.checkpoint_id)
                    .join(table, column == Sample.id)
                    .where(Sample.checkpoint_id.in_(chunk))
                    .distinct()
                )
            )
    return found


def deleted_before(session: Session, moment: datetime) -> Sequence[Checkpoint]:
    """What has been in the bin since before `moment`, children before their parents."""
    return session.scalars(
        select(Checkpoint)
        .where(Checkpoint.deleted_at < moment)
        .order_by(Checkpoint.created_at.desc(), Checkpoint.epoch.desc())
    ).all()


def has_children(session: Session, checkpoint_id: UUID) -> bool:
    """Deleted ones count too."""
    return session.scalar(select(Checkpoint.id).where(Checkpoint.parent_id == checkpoint_id).limit(1)) is not None


def purge(session: Session, checkpoint: Checkpoint) -> set[str]:
    """Delete a checkpoint, its samples and what hangs on them. Returns the digests of its images and its manifest."""
    digests = set(session.scalars(select(Sample.sha256).where(Sample.checkpoint_id == checkpoint.id)))
    session.execute(
        delete(Sample).where(Sample.checkpoint_id == checkpoint.id).execution_options(synchronize_session=False)
    )
    session.execute(
        delete(Checkpoint).where(Checkpoint.id == checkpoint.id).execution_options(synchronize_session=False)
    )
    unused = digests - images_in_use(session, digests)
    for chunk in in_chunks(unused):
        session.execute(delete(Embedding).where(Embedding.image_sha256.in_(chunk)))
    return digests | {checkpoint.manifest_sha256}


def images_in_use(session: Session, digests: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for chunk in in_chunks(digests):
        found.update(session.scalars(select(Sample.sha256).where(Sample.sha256.in_(chunk))))
    return found


def resumable_from(jobs: Iterable[Job]) -> Iterator[Job]:
    """Those that could go on from where they stopped."""
    stopped = (JobStatus.FAILED, JobStatus.CANCELLED)
    return (job for job in jobs if job.status in stopped and job.resume_sha256 is not None)


def same_files(session: Session, checkpoint: Checkpoint) -> bool:
    """Whether another checkpoint has the very same files."""
    statement = select(Checkpoint.id).where(
        Checkpoint.manifest_sha256 == checkpoint.manifest_sha256, Checkpoint.id != checkpoint.id
    )
    return session.scalar(statement.limit(1)) is not None


def unmeasured(session: Session, *, limit: int) -> Sequence[Checkpoint]:
    return session.scalars(select(Checkpoint).where(Checkpoint.n_bytes.is_(None)).limit(limit)).all()


def saved_epochs(session: Session) -> list[tuple[Checkpoint, Job]]:
    """Every checkpoint that a job saved, with its job, run by run in order of epochs."""
    rows = session.execute(
        select(Checkpoint, Job)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Checkpoint.deleted_at.is_(None), Checkpoint.epoch.is_not(None))
        .order_by(Job.created_at, Job.id, Checkpoint.epoch)
    )
    return [(checkpoint, job) for checkpoint, job in rows]


def storage_totals(session: Session) -> tuple[int, int, int]:
    """(checkpoints, bytes of their files as measured, samples); the bin counts."""
    n, n_bytes, n_samples = session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(Checkpoint.n_bytes), 0),
            func.coalesce(func.sum(Checkpoint.n_samples), 0),
        ).select_from(Checkpoint)
    ).one()
    return n, int(n_bytes or 0), int(n_samples or 0)


def bin_totals(session: Session) -> tuple[int, int]:
    """(checkpoints in the bin, bytes of their files as measured)."""
    n, n_bytes = session.execute(
        select(func.count(), func.coalesce(func.sum(Checkpoint.n_bytes), 0)).where(Checkpoint.deleted_at.is_not(None))
    ).one()
    return n, int(n_bytes or 0)


def _needing_keys() -> Iterator[tuple[Table, Column[UUID], str]]:
    """(table, column, "checkpoint" or "sample") of every foreign key that would refuse the deletion."""
    for table in Base.metadata.sorted_tables:
        for column in table.columns:
            for key in column.foreign_keys:
                target = key.column.table.name
                if (
                    target in ("checkpoint", "sample")
                    and key.ondelete is None
                    and (table.name, column.name) not in _KNOWN
                ):
                    yield table, column, target
