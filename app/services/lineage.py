"""Where a checkpoint comes from: its line back to the base, the votes behind it, and what came of it."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Job
from app.db.queries import lineage as queries
from app.domain.documented import Documented
from app.domain.enums import CheckpointKind, JobKind, JobStatus
from app.services.checkpoints import require_checkpoint

_MAX_DESCENDANTS = 1000


class CheckpointRef(BaseModel):
    id: UUID
    name: str
    kind: CheckpointKind
    parent_id: UUID | None
    job_id: UUID | None
    epoch: int | None


class JobRef(BaseModel):
    id: UUID
    kind: JobKind
    name: str
    status: JobStatus


class CampaignRef(BaseModel):
    id: UUID
    name: str
    question: str


class SnapshotRef(BaseModel):
    """The frozen votes, named by the hash of their content."""

    id: UUID
    sha256: str
    n_labels: int


class RewardModelRef(BaseModel):
    id: UUID
    name: str
    job_id: UUID
    accuracy: float | None
    label_snapshot: SnapshotRef
    campaign: CampaignRef


class LineageStep(Documented):
    """A checkpoint, the job that made it, and the learned rewards that this job optimised."""

    checkpoint: CheckpointRef
    job: JobRef | None
    reward_models: list[RewardModelRef]


class Lineage(LineageStep):
    """A checkpoint's own step, then those of its ancestors back to the base, then everything that descends from it."""

    ancestors: list[LineageStep]
    """The parent first, the base last."""
    descendants: list[CheckpointRef]
    """Oldest first, the first 1000."""


def get_lineage(session: Session, checkpoint_id: UUID) -> Lineage:
    """Raises NotFoundError."""
    require_checkpoint(session, checkpoint_id)
    line = queries.ancestors(session, checkpoint_id)
    jobs = queries.jobs(session, {row.job_id for row in line if row.job_id is not None})
    model_ids = {job_id: list(_reward_model_ids(job.spec)) for job_id, job in jobs.items()}
    models = queries.reward_models(session, {id for ids in model_ids.values() for id in ids})
    refs = {
        id: RewardModelRef(
            id=id,
            name=model.name,
            job_id=model.job_id,
            accuracy=model.accuracy,
            label_snapshot=SnapshotRef(id=snapshot.id, sha256=snapshot.sha256, n_labels=snapshot.n_labels),
            campaign=CampaignRef(id=campaign.id, name=campaign.name, question=campaign.question),
        )
        for id, (model, snapshot, campaign) in models.items()
    }

    def step(row: Checkpoint) -> LineageStep:
        job = jobs.get(row.job_id) if row.job_id is not None else None
        used = [refs[id] for id in model_ids[job.id] if id in refs] if job is not None else []
        return LineageStep(checkpoint=ref_of(row), job=_job_ref(job) if job else None, reward_models=used)

    steps = [step(row) for row in line]
    below = queries.descendants(session, checkpoint_id, limit=_MAX_DESCENDANTS)
    return Lineage(**dict(steps[0]), ancestors=steps[1:], descendants=[ref_of(row) for row in below])


def line_of(session: Session, checkpoint: Checkpoint) -> list[Checkpoint]:
    """The checkpoints along which a sample changed, in order: the base, then every saved epoch.

    Each finetune on the way contributes its epochs up to the one that was built upon, the last one all of them. For a
    checkpoint that no job made, the last finetune is the newest one that began at it.
    """
    path = list(reversed(queries.ancestors(session, checkpoint.id)))
    job_ids = [row.job_id for row in path if row.job_id is not None]
    if checkpoint.parent_id is None and (newest := queries.newest_job_from(session, checkpoint.id)) is not None:
        job_ids.append(newest)
    epochs = queries.epochs_of_jobs(session, job_ids)
    line = [path[0]]
    for job_id in job_ids:
        line += _until_built_upon([row for row in epochs if row.job_id == job_id and row.id != line[0].id], path[:-1])
    return line


def ref_of(row: Checkpoint) -> CheckpointRef:
    return CheckpointRef(
        id=row.id, name=row.name, kind=row.kind, parent_id=row.parent_id, job_id=row.job_id, epoch=row.epoch
    )


def _until_built_upon(epochs: Sequence[Checkpoint], built_upon: Sequence[Checkpoint]) -> Iterator[Checkpoint]:
    ids = {row.id for row in built_upon}
    for row in epochs:
        yield row
        if row.id in ids:
            return


def _job_ref(job: Job) -> JobRef:
    return JobRef(id=job.id, kind=job.kind, name=job.name, status=job.status)


def _reward_model_ids(spec: dict[str, Any]) -> Iterator[UUID]:
    for term in spec.get("reward", []):
        if term.get("reward_model_id"):
            yield UUID(term["reward_model_id"])
