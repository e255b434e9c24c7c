"""What waits for a person on the first page, and the blind test that settles an alarm."""

import re
from typing import Any
from uuid import UUID

from fastapi.testclient import TestClient

from app.db.models import Campaign, CampaignCheckpoint
from app.db.queries import jobs as job_queries
from app.domain.enums import Choice, EventKind, JobKind, JobStatus, Strategy
from app.services.attention import Matter, matters

Headers = dict[str, str]


def listed(world: Any) -> list[Matter]:
    with world.database.reader() as session:
        return matters(session)


def alarmed_run(world: Any, name: str, **fields: Any) -> tuple[UUID, UUID, list[UUID]]:
    """(base, job, saved epochs 1 to 3) of a finished finetune that raised an alarm at epoch 3."""
    base = world.checkpoint("base")
    spec = {"checkpoint_id": str(base), "reward": [{"name": "brightness"}], "epochs": 3, "eval": {"seed": 650}}
    job_id, epochs = world.finetune(base, [1, 2, 3], name=name, spec=spec, **fields)
    for id in (base, *epochs):
        world.samples(id, range(650, 654))
    payload = {"epoch": 3, "message": "diversity fell to 70 %.", "alarms": ["diversity fell"], "witnesses": []}
    with world.database.writer() as session:
        job_queries.append_event(session, job_id, EventKind.ALARM, payload, world.now)
    return base, job_id, epochs


def full_campaign(world: Any) -> UUID:
    id: UUID = world.campaign(world.checkpoint("rated"), [Choice.LEFT, Choice.RIGHT])
    with world.database.writer() as session:
        session.get_one(Campaign, id).budget = 2
    return id


def test_a_quiet_installation_needs_nobody(world: Any, client: TestClient, operator: Headers) -> None:
    world.job(status=JobStatus.RUNNING)
    world.job(status=JobStatus.SUCCEEDED)
    world.job(status=JobStatus.CANCELLED)  # by a person, who gave no error
    world.campaign(world.checkpoint(), [Choice.LEFT])  # without a budget it is never full
    assert listed(world) == []
    assert "Needs a person" not in client.get("/", headers=operator | {"accept": "text/html"}).text


def test_paused_failed_and_alarmed_runs_and_full_campaigns_are_listed_with_their_reason(
    world: Any, client: TestClient, operator: Headers
) -> None:
    world.job(status=JobStatus.FAILED, name="broken", error="The disk is full.")
    world.job(JobKind.FINETUNE, JobStatus.CANCELLED, name="stopped itself", error="Paused by an alarm at epoch 2 of 4.")
    _, alarmed, _ = alarmed_run(world, "too eager")
    campaign = full_campaign(world)
    found = listed(world)
    assert [(matter.kind, matter.title) for matter in found] == [
        ("paused", "stopped itself"), ("failed", "broken"), ("alarm", "too eager"), ("campaign", "Taste"),
    ]  # fmt: skip
    assert [matter.text for matter in found] == [
        "Paused by an alarm at epoch 2 of 4.", "The disk is full.", "Epoch 3: diversity fell to 70 %.",
        "All 2 votes are in.",
    ]  # fmt: skip
    assert [matter.href for matter in found[2:]] == [f"/jobs/{alarmed}", f"/campaigns/{campaign}"]
    html = client.get("/", headers=operator | {"accept": "text/html"}).text
    assert re.findall(r'aria-label="Put aside: ([^"]+)"', html) == ["stopped itself", "broken", "too eager"]


def test_what_was_put_aside_or_decided_is_off_the_list(world: Any, client: TestClient, operator: Headers) -> None:
    failed = world.job(status=JobStatus.FAILED, name="broken", error="The disk is full.")
    _, alarmed, _ = alarmed_run(world, "too eager")
    assert len(listed(world)) == 2
    client.post(f"/jobs/{failed}/seen", headers=operator, follow_redirects=False)
    assert [matter.title for matter in listed(world)] == ["too eager"]
    answer = client.post(f"/api/v1/jobs/{alarmed}/result", json={"epoch": 2}, headers=operator)
    assert answer.status_code == 200
    assert listed(world) == []


def test_an_alarm_opens_a_blind_tournament_of_the_base_the_last_good_epoch_and_the_doubtful_one(
    world: Any, client: TestClient, operator: Headers
) -> None:
    base, job_id, (_, good, doubtful) = alarmed_run(world, "too eager")
    html = client.get(f"/jobs/{job_id}", headers=operator | {"accept": "text/html"}).text
    assert f'action="/jobs/{job_id}/tournament"' in html
    answer = client.post(f"/jobs/{job_id}/tournament", headers=operator, follow_redirects=False)
    assert answer.status_code == 303
    campaign_id = UUID(answer.headers["location"].rpartition("/")[2])
    with world.database.reader() as session:
        campaign = session.get_one(Campaign, campaign_id)
        members = {session.get_one(CampaignCheckpoint, (campaign_id, id)).position: id for id in (base, good, doubtful)}
    assert [members[position] for position in sorted(members)] == [base, good, doubtful]
    assert campaign.strategy is Strategy.TOURNAMENT
    assert (campaign.name, campaign.budget, campaign.open) == ("Doubt: too eager", 100, True)
    lease = client.post(f"/api/v1/campaigns/{campaign_id}/comparisons", headers=operator)
    assert lease.status_code == 200, lease.text
    assert len(lease.json()) == 1, "it can be rated at once"


def test_a_run_without_an_alarm_has_no_button_and_refuses_the_tournament(
    world: Any, client: TestClient, operator: Headers
) -> None:
    base = world.checkpoint()
    spec = {"checkpoint_id": str(base), "reward": [{"name": "brightness"}], "eval": {"seed": 650}}
    job_id, _ = world.finetune(base, [1], spec=spec)
    html = client.get(f"/jobs/{job_id}", headers=operator | {"accept": "text/html"}).text
    assert "/tournament" not in html
    answer = client.post(f"/jobs/{job_id}/tournament", headers=operator, follow_redirects=False)
    assert answer.status_code == 409
    assert "no alarm" in answer.json()["detail"]
