"""Reward models over REST: their quality, and the rewards of samples."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.config import Settings
from app.db.models import Campaign, Job, LabelSnapshot, RewardModel, Sample, SampleReward
from app.db.session import Database
from app.domain.enums import CampaignStatus, JobKind, Role, Strategy
from tests.labeling_data import MADE_AT, add_checkpoint

Headers = dict[str, str]
URL = "/api/v1/reward-models"


@pytest.fixture
def operator(sign_in: Callable[..., Headers]) -> Headers:
    return sign_in(Role.OPERATOR, "olga")


@pytest.fixture
def checkpoint(database: Database, settings: Settings) -> UUID:
    return add_checkpoint(database, settings, seeds=range(10, 16))


@pytest.fixture
def model(database: Database, checkpoint: UUID) -> str:
    with database.writer() as session:
        campaign = Campaign(
            name="c", question="?", strategy=Strategy.UNIFORM, status=CampaignStatus.ACTIVE, created_at=MADE_AT
        )
        job = Job(kind=JobKind.REWARD_MODEL, name="j", spec={}, inputs={}, result={}, created_at=MADE_AT)
        session.add_all([campaign, job])
        session.flush()
        snapshot = LabelSnapshot(campaign_id=campaign.id, sha256="ab" * 32, n_labels=300, created_at=MADE_AT)
        session.add(snapshot)
        session.flush()
        row = RewardModel(
            job_id=job.id, campaign_id=campaign.id, snapshot_id=snapshot.id, name="taste", encoder="efficientnet-lite0",
            blob_sha256="0" * 64, n_labels=300, accuracy=0.9, accuracy_low=0.8, accuracy_high=0.95, human_ceiling=None,
            ece=0.04, report={"seconds": 3}, created_at=MADE_AT,
        )  # fmt: skip
        session.add(row)
        session.flush()
        return str(row.id)


def sample_ids(database: Database) -> list[UUID]:
    with database.reader() as session:
        return list(session.scalars(select(Sample.id).order_by(Sample.ordinal)))


def ask(client: TestClient, operator: Headers, model: str, ids: list[Any]) -> Any:
    return client.post(f"{URL}/{model}/rewards", json={"sample_ids": [str(id) for id in ids]}, headers=operator)


def test_a_reward_model_shows_its_measured_quality(client: TestClient, operator: Headers, model: str):
    shown = client.get(f"{URL}/{model}", headers=operator).json()
    assert shown["snapshot_sha256"] == "ab" * 32
    assert (shown["accuracy"], shown["accuracy_interval"], shown["human_ceiling"]) == (0.9, [0.8, 0.95], None)
    assert client.get(URL, headers=operator).json()["items"] == [shown]
    assert client.get(URL, params={"campaign_id": str(uuid4())}, headers=operator).json()["items"] == []
    assert client.get(f"{URL}/{uuid4()}", headers=operator).status_code == 404


def test_known_rewards_are_answered_at_once(client: TestClient, operator: Headers, model: str, database: Database):
    ids = sample_ids(database)
    with database.writer() as session:
        session.add_all(SampleReward(sample_id=id, name=f"preference:{model}", value=0.5) for id in ids)
    answer = ask(client, operator, model, ids[:2])
    assert answer.status_code == 200
    assert answer.json() == {"reward_model_id": model, "rewards": {str(id): 0.5 for id in ids[:2]}, "job_id": None}


def test_unknown_rewards_are_put_into_a_job_that_covers_them(
    client: TestClient, operator: Headers, model: str, checkpoint: UUID, database: Database
):
    ids = sample_ids(database)
    answer = ask(client, operator, model, [ids[1], ids[4]])
    assert answer.status_code == 202
    assert answer.json()["rewards"] == {}
    job = client.get(answer.headers["location"], headers=operator).json()
    assert job["kind"] == "evaluate"
    spec = job["spec"]
    assert (spec["checkpoint_ids"], spec["seed"], spec["n"], spec["steps"]) == ([str(checkpoint)], 11, 4, 20)
    assert spec["rewards"][0]["reward_model_id"] == model


def test_samples_drawn_differently_do_not_fit_into_one_job(
    client: TestClient, operator: Headers, model: str, database: Database, settings: Settings
):
    add_checkpoint(database, settings, "other", [1], steps=50)
    answer = ask(client, operator, model, sample_ids(database))
    assert answer.status_code == 422
    assert "groups" in answer.json()["detail"]


def test_unknown_samples_and_models_are_refused(client: TestClient, operator: Headers, model: str):
    assert ask(client, operator, model, [uuid4()]).status_code == 422
    assert ask(client, operator, model, []).status_code == 422
    assert ask(client, operator, str(uuid4()), [uuid4()]).status_code == 404


def test_raters_see_no_reward_models(client: TestClient, model: str, sign_in: Callable[..., Headers]):
    assert client.get(f"{URL}/{model}", headers=sign_in(Role.RATER)).status_code == 403
