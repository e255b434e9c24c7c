"""Handlers run in this process: what they store for evaluate, reward_model and pretrain jobs."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from app.config import Settings
from app.db.models import (
    Campaign,
    CampaignCheckpoint,
    Checkpoint,
    Embedding,
    Job,
    LabelSnapshot,
    Measurement,
    RewardModel,
    Sample,
    SampleReward,
)
from app.db.queries import jobs as queries
from app.db.queries import learning as learning_queries
from app.domain import uncertainty
from app.domain.enums import JobKind, JobStatus, Strategy
from tests.integration.worker.conftest import add_base
from worker.jobs.child import run_attempt
from worker.jobs.images import load_image
from worker.jobs.runtime import Runtime, open_runtime

RunJob = Callable[..., Job]


@pytest.fixture
def runtime(sqlite_database_url: str, tmp_path: Path) -> Runtime:
    return open_runtime(
        Settings(
            mode="demo",
            data_dir=tmp_path / "data",
            database_url=sqlite_database_url,  # type: ignore[arg-type]
            device="cpu",
            worker_concurrency=64,
        )
    )


@pytest.fixture
def base(runtime: Runtime, tiny_model: Path) -> Checkpoint:
    return add_base(runtime, tiny_model)


@pytest.fixture
def run_job(runtime: Runtime) -> RunJob:
    """Queue, claim and run a job; the row as it ended."""

    def _run_job(kind: JobKind, spec: dict[str, Any], **columns: Any) -> Job:
        with runtime.database.writer() as session:
            job = Job(kind=kind, name="test", spec=spec, created_at=datetime.now(UTC), **columns)
            session.add(job)
        with runtime.database.writer() as session:
            claim = queries.claim(session, job.id, worker="test", now=datetime.now(UTC))
        assert claim is not None
        run_attempt(runtime, claim)
        with runtime.database.reader() as session:
            return session.get_one(Job, job.id)

    return _run_job


def samples_of(runtime: Runtime, checkpoint_id: UUID) -> list[Sample]:
    with runtime.database.reader() as session:
        return list(session.scalars(select(Sample).where(Sample.checkpoint_id == checkpoint_id)))


def test_an_evaluation_measures_the_pixels_that_are_stored(runtime: Runtime, base: Checkpoint, run_job: RunJob) -> None:
    job = run_job(
        JobKind.EVALUATE,
        {"checkpoint_ids": [str(base.id)], "rewards": [{"name": "brightness", "weight": -3}], "n": 6, "steps": 3},
    )
    assert job.status is JobStatus.SUCCEEDED, job.error
    luma = [
        (load_image(runtime.blobs, sample.sha256) @ np.array([0.299, 0.587, 0.114])).mean() / 255
        for sample in samples_of(runtime, base.id)
    ]
    with runtime.database.reader() as session:
        measured = session.get_one(Measurement, (base.id, "brightness"))
    assert measured.n == 6
    assert measured.mean == pytest.approx(np.mean(luma)), "in the reward's own unit, whatever its weight"
    assert measured.sem == pytest.approx(np.std(luma, ddof=1) / np.sqrt(6))


def snapshot_of(runtime: Runtime, base: Checkpoint, *, votes: int) -> tuple[UUID, UUID]:
    """A campaign and the frozen votes of a rater who likes bright samples."""
    samples = samples_of(runtime, base.id)
    light = {sample.id: load_image(runtime.blobs, sample.sha256).mean() for sample in samples}
    rng = np.random.default_rng(0)
    lines = []
    for number in range(votes):
        left, right = (samples[k] for k in rng.choice(len(samples), 2, replace=False))
        choice = "skip" if number % 10 == 0 else "left" if light[left.id] > light[right.id] else "right"
        vote = {
            "comparison_id": str(number),
            "rater": "ada",
            "left_sha256": left.sha256,
            "right_sha256": right.sha256,
            "left_sample_id": str(left.id),
            "right_sample_id": str(right.id),
            "choice": choice,
            "is_random": True,
            "selection_probability": 0.1,
            "repeat_of": None,
        }
        lines.append(json.dumps(vote))
    with runtime.database.writer() as session:
        campaign = Campaign(name="test", question="Which?", strategy=Strategy.UNIFORM, created_at=datetime.now(UTC))
        session.add(campaign)
        session.flush()
        session.add(CampaignCheckpoint(campaign_id=campaign.id, checkpoint_id=base.id, position=0))
        snapshot = LabelSnapshot(
            campaign_id=campaign.id,
            sha256=runtime.blobs.put("\n".join(lines).encode()),
            n_labels=votes,
            created_at=datetime.now(UTC),
        )
        session.add(snapshot)
    return campaign.id, snapshot.id


def test_votes_become_a_reward_model_that_can_be_finetuned_against(
    runtime: Runtime, base: Checkpoint, run_job: RunJob
) -> None:
    assert run_job(JobKind.SAMPLE, {"checkpoint_id": str(base.id), "n": 30, "steps": 3}).error is None
    campaign_id, snapshot_id = snapshot_of(runtime, base, votes=60)
    job = run_job(JobKind.REWARD_MODEL, {"campaign_id": str(campaign_id)}, inputs={"snapshot_id": str(snapshot_id)})
    assert job.status is JobStatus.SUCCEEDED, job.error
    with runtime.database.reader() as session:
        model = session.scalars(select(RewardModel)).one()
        rewards = session.scalars(select(SampleReward).where(SampleReward.name == f"preference:{model.id}")).all()
        embedded = session.scalar(select(func.count()).select_from(Embedding))
        sketches = learning_queries.sketches_at(session, campaign_id, range(40))
    assert job.result["reward_model_id"] == str(model.id)
    assert model.n_labels == 54, "skipped pairs are not fitted"
    assert len(rewards) == embedded == 30, "every sample of the campaign's checkpoints is scored"
    assert {id for id, _ in sketches.values()} == {row.sample_id for row in rewards}, "and can be picked"
    sketch = uncertainty.decode([vector for _, vector in sketches.values()])
    published = dict(zip((id for id, _ in sketches.values()), sketch[:, 0], strict=True))
    assert np.corrcoef([published[row.sample_id] for row in rewards], [row.value for row in rewards])[0, 1] > 0.99

    spec = {
        "checkpoint_id": str(base.id),
        "reward": {"name": "preference", "reward_model_id": str(model.id)},
        "epochs": 1,
        "samples_per_epoch": 4,
        "steps": 3,
        "eval": {"n": 2},
    }
    finetuned = run_job(JobKind.FINETUNE, spec)
    assert finetuned.status is JobStatus.SUCCEEDED, finetuned.error
    with runtime.database.reader() as session:
        checkpoint_id = UUID(finetuned.result["checkpoint_id"])
        assert session.get_one(Measurement, (checkpoint_id, f"preference:{model.id}")).n == 2


def test_too_few_votes_fail_with_how_many_are_needed(runtime: Runtime, base: Checkpoint, run_job: RunJob) -> None:
    assert run_job(JobKind.SAMPLE, {"checkpoint_id": str(base.id), "n": 4, "steps": 3}).error is None
    campaign_id, snapshot_id = snapshot_of(runtime, base, votes=5)
    job = run_job(JobKind.REWARD_MODEL, {"campaign_id": str(campaign_id)}, inputs={"snapshot_id": str(snapshot_id)})
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert "at least 10 votes" in job.error


def test_a_folder_of_pictures_becomes_a_base_that_draws(runtime: Runtime, run_job: RunJob) -> None:
    folder = runtime.settings.models_root / "pictures"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    spec = {"data": {"type": "folder", "path": "pictures"}, "image_size": 16, "channels": [8, 16], "steps": 4}
    job = run_job(JobKind.PRETRAIN, spec | {"batch_size": 2, "save_every": 2, "warmup": 0})
    assert job.status is JobStatus.SUCCEEDED, job.error
    drawn = run_job(JobKind.SAMPLE, {"checkpoint_id": job.result["checkpoint_id"], "n": 2, "steps": 3})
    assert drawn.status is JobStatus.SUCCEEDED, drawn.error
    assert len(samples_of(runtime, UUID(job.result["checkpoint_id"]))) == 2


@pytest.mark.parametrize("path", ["../..", "/etc"])
def test_pretraining_reads_nothing_outside_the_models_directory(run_job: RunJob, path: str) -> None:
    job = run_job(JobKind.PRETRAIN, {"data": {"type": "folder", "path": path}})
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert "leads out of the models directory" in job.error
