"""Steering jobs: place in the queue, a raised budget, another epoch as the result."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from app.db.models import Job, Retraction
from app.db.queries import alarms as alarm_queries
from app.db.queries import jobs as job_queries
from app.domain.enums import EventKind, JobKind, JobStatus, WorkQueue

Headers = dict[str, str]
URL = "/api/v1/jobs"


@pytest.fixture
def move(client: TestClient, operator: Headers) -> Callable[..., Any]:
    return lambda job_id, direction: client.post(
        f"{URL}/{job_id}/move", json={"direction": direction}, headers=operator
    )


def claimed_in_turn(world: Any) -> list[UUID]:
    """The order in which workers take what is queued."""
    order = []
    with world.database.writer() as session:
        while claim := job_queries.claim_first(session, frozenset(WorkQueue), worker="w", now=world.now):
            order.append(claim.job_id)
    return order


def test_workers_take_jobs_by_priority_and_then_in_the_order_they_came(
    client: TestClient, world: Any, operator: Headers
) -> None:
    base = str(world.checkpoint())
    ids = {}
    for name, priority in (("a", "normal"), ("b", "low"), ("c", "high"), ("d", "normal")):
        body = {"kind": "sample", "spec": {"checkpoint_id": base}, "name": name, "priority": priority}
        answer = client.post(URL, json=body, headers=operator)
        assert answer.status_code == 202
        assert answer.json()["priority"] == priority
        ids[UUID(answer.json()["id"])] = name
    assert [ids[id] for id in claimed_in_turn(world)] == ["c", "a", "d", "b"]


def test_a_moved_job_is_claimed_in_its_new_turn(world: Any, move: Callable[..., Any]) -> None:
    a, b, c, d = (world.job() for _ in range(4))
    assert move(c, "up").status_code == 200
    assert move(a, "down").json()["id"] == str(a)
    assert move(d, "top").status_code == 200
    assert claimed_in_turn(world) == [d, c, a, b]


def test_passing_a_job_of_another_priority_takes_on_that_priority(world: Any, move: Callable[..., Any]) -> None:
    low, high = world.job(priority=-1), world.job(priority=1)
    assert move(low, "up").json()["priority"] == "high"
    assert claimed_in_turn(world) == [low, high]


def test_the_ends_of_the_line_are_no_error(world: Any, move: Callable[..., Any]) -> None:
    a, b = world.job(), world.job()
    assert move(a, "up").status_code == 200
    assert move(b, "down").status_code == 200
    assert claimed_in_turn(world) == [a, b]


def test_only_queued_jobs_have_a_place_in_line(world: Any, move: Callable[..., Any]) -> None:
    running = world.job(status=JobStatus.RUNNING)
    assert move(running, "top").status_code == 409
    assert move(running, "sideways").status_code == 422
    assert move(UUID(int=7), "top").status_code == 404


def finetune_spec(base: UUID, epochs: int = 4) -> dict[str, Any]:
    return {"checkpoint_id": str(base), "reward": [{"name": "brightness"}], "epochs": epochs}


def test_a_finished_finetune_can_be_given_more_epochs(client: TestClient, world: Any, operator: Headers) -> None:
    base = world.checkpoint()
    job_id = world.job(
        JobKind.FINETUNE, JobStatus.SUCCEEDED, spec=finetune_spec(base), resume_sha256="a" * 64, progress=1.0
    )
    answer = client.post(f"{URL}/{job_id}/extend", json={"epochs": 10}, headers=operator)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["status"], body["spec"]["epochs"], body["progress"]) == ("queued", 10, pytest.approx(0.4))
    assert body["resumable"]
    log = client.get(f"{URL}/{job_id}/events", headers=operator).json()
    assert {"message": "Budget raised from 4 to 10 epochs."} in [event["payload"] for event in log]


@pytest.mark.parametrize(
    ("fields", "epochs", "status"),
    [
        ({"status": JobStatus.SUCCEEDED, "resume_sha256": "a" * 64}, 4, 422),
        ({"status": JobStatus.SUCCEEDED, "resume_sha256": None}, 9, 409),
        ({"status": JobStatus.RUNNING, "resume_sha256": "a" * 64}, 9, 409),
        ({"status": JobStatus.SUCCEEDED, "kind": JobKind.SAMPLE, "resume_sha256": "a" * 64}, 9, 409),
    ],
)
def test_a_budget_that_cannot_be_raised_is_refused_with_the_reason(
    client: TestClient, world: Any, operator: Headers, fields: dict[str, Any], epochs: int, status: int
) -> None:
    spec = finetune_spec(world.checkpoint())
    job_id = world.job(**{"kind": JobKind.FINETUNE, "spec": spec} | fields)
    answer = client.post(f"{URL}/{job_id}/extend", json={"epochs": epochs}, headers=operator)
    assert answer.status_code == status
    assert len(answer.json()["detail"]) > 30


def test_an_earlier_epoch_becomes_the_result_and_a_running_job_is_stopped(
    client: TestClient, world: Any, operator: Headers
) -> None:
    base = world.checkpoint()
    job_id, epochs = world.finetune(base, [1, 2, 3], spec=finetune_spec(base), result={"checkpoint_id": "x"})
    answer = client.post(f"{URL}/{job_id}/result", json={"epoch": 2}, headers=operator)
    assert answer.json()["result"] == {"checkpoint_id": str(epochs[1]), "chosen_epoch": 2}
    answer = client.post(f"{URL}/{job_id}/result", json={"epoch": 0}, headers=operator)
    assert answer.json()["result"]["checkpoint_id"] == str(base)
    assert client.post(f"{URL}/{job_id}/result", json={"epoch": 9}, headers=operator).status_code == 404
    with world.database.writer() as session:
        session.get_one(Job, job_id).status = JobStatus.RUNNING
    assert client.post(f"{URL}/{job_id}/result", json={"epoch": 1}, headers=operator).json()["cancel_requested"]


def test_a_result_that_was_chosen_stays_where_the_run_succeeds_before_it_stops(
    client: TestClient, world: Any, operator: Headers
) -> None:
    base = world.checkpoint()
    job_id, epochs = world.finetune(base, [1, 2], spec=finetune_spec(base))
    with world.database.writer() as session:
        session.get_one(Job, job_id).status = JobStatus.RUNNING
    client.post(f"{URL}/{job_id}/result", json={"epoch": 1}, headers=operator)
    last = {"checkpoint_id": str(epochs[1]), "epochs": 2}
    with world.database.writer() as session:
        job_queries.finish(session, job_id, JobStatus.SUCCEEDED, world.now, result=last)
    result = client.get(f"{URL}/{job_id}", headers=operator).json()["result"]
    assert result == {"checkpoint_id": str(epochs[0]), "chosen_epoch": 1, "epochs": 2}


def test_retracted_raters_speak_neither_for_nor_against_a_run(world: Any) -> None:
    base = world.checkpoint()
    _, [tuned] = world.finetune(base, [1])
    campaign = world.duel(tuned, base, wins=3, losses=2)
    with world.database.writer() as session:
        duels = alarm_queries.duels_with_base(session, [tuned], base)
        assert sorted(duel.score for duel in duels) == [0, 0, 1, 1, 1]
        for duel in duels:
            if duel.score == 0:
                session.add(Retraction(campaign_id=campaign, rater_id=duel.rater_id, reason="", retracted_at=world.now))
        session.flush()
        assert [duel.score for duel in alarm_queries.duels_with_base(session, [tuned], base)] == [1, 1, 1]


def test_curves_of_a_job_that_was_started_over_begin_anew(client: TestClient, world: Any, operator: Headers) -> None:
    base = world.checkpoint()
    job_id = world.job(JobKind.FINETUNE, JobStatus.FAILED, spec=finetune_spec(base))
    with world.database.writer() as session:
        for epoch in (1, 2):
            row = {"epoch": epoch, "reward_mean": float(epoch)}
            job_queries.append_event(session, job_id, EventKind.METRICS, row, world.now)
    assert client.get(f"{URL}/{job_id}/metrics", headers=operator).json()["epoch"] == [1, 2]
    assert client.post(f"{URL}/{job_id}/retry", headers=operator).status_code == 200
    assert client.get(f"{URL}/{job_id}/metrics", headers=operator).json() == {"epoch": []}
