"""A small world to look at: checkpoints, samples with real PNG files, a campaign with votes."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.base import Base
from app.db.models import Campaign, CampaignCheckpoint, Checkpoint, Comparison, Job, Pair, Preference, Sample, User
from app.db.queries.samples import DrawnImage, Recipe, add_samples
from app.db.session import Database
from app.domain.enums import CheckpointKind, Choice, JobKind, JobStatus, Role, Strategy


def png(seed: int, size: int = 16) -> bytes:
    """A PNG of noise; other seeds give other pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@dataclass
class World:
    """Puts rows and blobs under the running app."""

    database: Database
    blobs: BlobStore
    now: datetime

    def add(self, *rows: Base) -> None:
        with self.database.writer() as session:
            for row in rows:
                session.add(row)
                session.flush()

    def checkpoint(self, name: str = "base", **fields: Any) -> UUID:
        manifest = self.blobs.put_json({"files": {"model_index.json": self.blobs.put(b"{}")}})
        self.now += timedelta(seconds=1)
        row = Checkpoint(
            id=uuid4(),
            name=name,
            **{
                "kind": CheckpointKind.FINETUNED if "parent_id" in fields else CheckpointKind.BASE,
                "source": name,
                "manifest_sha256": manifest,
                "image_size": 16,
                "tags": [],
                "n_samples": 0,
                "created_at": self.now,
                **fields,
            },
        )
        self.add(row)
        return row.id

    def samples(self, checkpoint_id: UUID, seeds: Sequence[int], *, steps: int = 10, eta: float = 1.0) -> list[Sample]:
        images = [png(seed + checkpoint_id.int % 1000) for seed in seeds]
        drawn = [DrawnImage(seed, self.blobs.put(data), 16, 16) for seed, data in zip(seeds, images, strict=True)]
        recipe = Recipe(checkpoint_id=checkpoint_id, steps=steps, eta=eta)
        with self.database.writer() as session:
            return add_samples(session, recipe, drawn, job_id=None, now=self.now)

    def job(self, kind: JobKind = JobKind.SAMPLE, status: JobStatus = JobStatus.QUEUED, **fields: Any) -> UUID:
        self.now += timedelta(seconds=1)
        row = Job(id=uuid4(), kind=kind, status=status, created_at=self.now, **{"name": "a job", "spec": {}, **fields})
        self.add(row)
        return row.id

    def finetune(self, parent_id: UUID, epochs: Sequence[int], **fields: Any) -> tuple[UUID, list[UUID]]:
        """A finished finetune of `parent_id` with its saved epochs."""
        job_id = self.job(JobKind.FINETUNE, JobStatus.SUCCEEDED, **fields)
        return job_id, [
            self.checkpoint(f"epoch {epoch}", parent_id=parent_id, job_id=job_id, epoch=epoch) for epoch in epochs
        ]

    def duel(self, checkpoint_id: UUID, base_id: UUID, *, wins: int, losses: int) -> UUID:
        """A tournament between two checkpoints with these votes, each by a rater of its own."""
        campaign = Campaign(
            id=uuid4(), name="Duel", question="Which?", strategy=Strategy.TOURNAMENT, overlap=1, created_at=self.now
        )
        members = [
            CampaignCheckpoint(campaign_id=campaign.id, checkpoint_id=id, position=position)
            for position, id in enumerate((base_id, checkpoint_id))
        ]
        self.add(campaign, *members)
        for number in range(wins + losses):
            own, other = (self.samples(id, [2000 + number])[0].id for id in (checkpoint_id, base_id))
            rater = User(id=uuid4(), name=f"rater {uuid4().hex[:6]}", role=Role.RATER, created_at=self.now)
            first, second = sorted([own, other])
            pair = Pair(
                id=uuid4(), campaign_id=campaign.id, sample_a_id=first, sample_b_id=second, n_leased=1,
                created_at=self.now,
            )  # fmt: skip
            comparison = Comparison(
                id=uuid4(), campaign_id=campaign.id, pair_id=pair.id, rater_id=rater.id, left_sample_id=own,
                right_sample_id=other, strategy=Strategy.TOURNAMENT, is_random=True, selection_probability=0.5,
                leased_at=self.now, expires_at=self.now + timedelta(minutes=15), closed_at=self.now,
            )  # fmt: skip
            choice = Choice.LEFT if number < wins else Choice.RIGHT
            vote = Preference(
                comparison_id=comparison.id, campaign_id=campaign.id, rater_id=rater.id, choice=choice,
                created_at=self.now, updated_at=self.now,
            )  # fmt: skip
            self.add(rater, pair, comparison, vote)
        return campaign.id

    def campaign(self, checkpoint_id: UUID, votes: Sequence[Choice] = ()) -> UUID:
        """A campaign whose votes were given by one rater on fresh pairs."""
        campaign = Campaign(
            id=uuid4(), name="Taste", question="Which?", strategy=Strategy.UNIFORM, overlap=1, created_at=self.now
        )
        rater = User(id=uuid4(), name=f"rater {uuid4().hex[:6]}", role=Role.RATER, created_at=self.now)
        self.add(campaign, rater, CampaignCheckpoint(campaign_id=campaign.id, checkpoint_id=checkpoint_id, position=0))
        for number, choice in enumerate(votes):
            left, right = self.samples(checkpoint_id, [1000 + 2 * number, 1001 + 2 * number])
            first, second = sorted([left.id, right.id])
            pair = Pair(
                id=uuid4(), campaign_id=campaign.id, sample_a_id=first, sample_b_id=second, n_leased=1,
                created_at=self.now,
            )  # fmt: skip
            comparison = Comparison(
                id=uuid4(),
                campaign_id=campaign.id,
                pair_id=pair.id,
                rater_id=rater.id,
                left_sample_id=left.id,
                right_sample_id=right.id,
                strategy=Strategy.UNIFORM,
                is_random=True,
                selection_probability=0.5,
                leased_at=self.now,
                expires_at=self.now + timedelta(minutes=15),
                closed_at=self.now,
            )
            vote = Preference(
                comparison_id=comparison.id,
                campaign_id=campaign.id,
                rater_id=rater.id,
                choice=choice,
                created_at=self.now + timedelta(seconds=number),
                updated_at=self.now + timedelta(seconds=number),
            )
            self.add(pair, comparison, vote)
        return campaign.id


@pytest.fixture
def world(database: Database, settings: Settings, clock: Any) -> World:
    return World(database, BlobStore(settings.blob_root), clock.now())


@pytest.fixture
def operator(sign_in: Callable[..., dict[str, str]]) -> dict[str, str]:
    """Headers of an operator's token."""
    return sign_in(Role.OPERATOR)


@pytest.fixture
def walk(client: TestClient, operator: dict[str, str]) -> Callable[..., list[dict[str, Any]]]:
    """Every item of a list, two a page."""

    def _walk(path: str, **params: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            answer = client.get(path, params={"limit": 2, **params, **cursor}, headers=operator)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            assert len(page["items"]) <= 2
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = {"cursor": page["next_cursor"]}

    return _walk
