"""Lineage both ways: every step from a rater to a checkpoint and back, and what a change would affect."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from app.db.models import LabelSnapshot, Preference, RewardModel, SnapshotRater
from app.domain.enums import Choice, JobKind, JobStatus

Headers = dict[str, str]
URL = "/api/v1/lineage"


@pytest.fixture
def chain(world: Any) -> dict[str, UUID]:
    """A base, a campaign on it, votes of one rater, a snapshot, a reward model, a finetune and what it saved."""
    base = world.checkpoint("base")
    campaign = world.campaign(base, [Choice.LEFT, Choice.RIGHT])
    learning = world.job(JobKind.REWARD_MODEL, JobStatus.SUCCEEDED, spec={"campaign_id": str(campaign)})
    snapshot = LabelSnapshot(
        id=uuid4(), campaign_id=campaign, sha256="a" * 64, n_labels=2, created_at=world.now.replace(year=2030)
    )
    model = RewardModel(
        id=uuid4(), job_id=learning, campaign_id=campaign, snapshot_id=snapshot.id, name="taste", encoder="e",
        blob_sha256="b" * 64, n_labels=2, report={}, created_at=world.now,
    )  # fmt: skip
    world.add(snapshot, model)
    with world.database.reader() as session:
        rater = session.query(Preference).first().rater_id
    world.add(SnapshotRater(snapshot_id=snapshot.id, rater_id=rater, n_votes=2, weight=1.0))
    spec = {"checkpoint_id": str(base), "reward": [{"name": "preference", "reward_model_id": str(model.id)}]}
    finetune, [tuned] = world.finetune(base, [1], spec=spec)
    return {
        "rater": rater, "campaign": campaign, "label_snapshot": snapshot.id, "reward_model": model.id,
        "learning": learning, "finetune": finetune, "base": base, "tuned": tuned,
    }  # fmt: skip


def ids(levels: list[list[dict[str, Any]]]) -> set[str]:
    return {node["id"] for level in levels for node in level}


def test_a_checkpoint_leads_back_to_its_raters_step_by_step(
    client: TestClient, operator: Headers, chain: dict[str, UUID]
) -> None:
    graph = client.get(f"{URL}/checkpoint/{chain['tuned']}", headers=operator).json()
    steps = [{node["id"] for node in level} for level in graph["comes_from"]]
    name = {key: str(id) for key, id in chain.items()}
    assert steps == [
        {name["finetune"]},
        {name["reward_model"], name["base"]},
        {name["label_snapshot"], name["learning"]},
        {name["campaign"], name["rater"]},
    ]
    assert (graph["led_to"], graph["affected"], graph["complete"]) == ([], {}, True)


def test_a_rater_leads_to_everything_that_was_learned_from_their_votes(
    client: TestClient, operator: Headers, chain: dict[str, UUID]
) -> None:
    graph = client.get(f"{URL}/rater/{chain['rater']}", headers=operator).json()
    expected = {str(id) for key, id in chain.items() if key not in ("rater", "base", "learning")}
    assert ids(graph["led_to"]) == expected
    assert graph["comes_from"] == []
    assert graph["affected"] == {"campaign": 1, "label_snapshot": 1, "reward_model": 1, "job": 1, "checkpoint": 1}


@pytest.mark.parametrize(
    ("kind", "key", "cause", "effect"),
    [
        ("campaign", "campaign", "base", "label_snapshot"),
        ("label_snapshot", "label_snapshot", "campaign", "reward_model"),
        ("reward_model", "reward_model", "label_snapshot", "finetune"),
        ("job", "finetune", "reward_model", "tuned"),
    ],
)
def test_every_step_can_be_taken_both_ways(
    client: TestClient, operator: Headers, chain: dict[str, UUID], kind: str, key: str, cause: str, effect: str
) -> None:
    graph = client.get(f"{URL}/{kind}/{chain[key]}", headers=operator).json()
    assert str(chain[cause]) in {node["id"] for node in graph["comes_from"][0]}
    assert str(chain[effect]) in {node["id"] for node in graph["led_to"][0]}
    page = client.get(f"/lineage/{kind}/{chain[key]}", headers=operator)
    assert page.status_code == 200
    for other in (cause, effect):
        assert f"/{chain[other]}" in page.text


def test_a_snapshots_raters_are_those_it_froze_whenever_they_voted(
    client: TestClient, operator: Headers, world: Any, chain: dict[str, UUID]
) -> None:
    """The votes are older than this snapshot, which holds none of them."""
    empty = LabelSnapshot(
        id=uuid4(), campaign_id=chain["campaign"], sha256="c" * 64, n_labels=0, created_at=world.now.replace(year=2031)
    )
    world.add(empty)
    graph = client.get(f"{URL}/label_snapshot/{empty.id}", headers=operator).json()
    assert {node["id"] for node in graph["comes_from"][0]} == {str(chain["campaign"])}


def test_an_unknown_thing_is_404(client: TestClient, operator: Headers) -> None:
    assert client.get(f"{URL}/checkpoint/{uuid4()}", headers=operator).status_code == 404
    assert client.get(f"/lineage/rater/{uuid4()}", headers=operator).status_code == 404
