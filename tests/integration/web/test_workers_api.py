"""Who is there to take jobs, jobs in parts as an operator steers them, and versions that may not work here."""

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app import __version__
from app.config import Settings
from app.db.models import Job, Worker
from app.db.queries import jobs as queries
from app.domain.enums import JobKind, JobStatus, WorkQueue
from app.domain.jobs import is_newer, parts_of, queue_of
from app.domain.specs import parse_spec
from tests.conftest import FakeClock
from worker.jobs.presence import reason_to_refuse
from worker.jobs.reaper import Reaper
from worker.jobs.runtime import open_runtime

Headers = dict[str, str]
URL = "/api/v1/jobs"
ANY = "00000000-0000-4000-8000-000000000001"


def add_worker(world: Any, clock: FakeClock, name: str, queues: list[str], *, seen: float = 0.0, **fields: Any) -> None:
    moment = clock.now() - timedelta(seconds=seen)
    world.add(
        Worker(name=name, version="0.1.0", queues=queues, concurrency=1, started_at=moment, seen_at=moment, **fields)
    )


def sharded(client: TestClient, world: Any, operator: Headers, **spec: Any) -> tuple[str, list[dict[str, Any]]]:
    """A sampling job in shards, and its parts as the API lists them."""
    spec = {"checkpoint_id": str(world.checkpoint()), "n": 10, "seed": 5, "shards": 3} | spec
    job = client.post(URL, json={"kind": "sample", "spec": spec}, headers=operator).json()
    parts = client.get(URL, params={"part_of": job["id"]}, headers=operator).json()["items"]
    return job["id"], sorted(parts, key=lambda part: part["spec"]["seed"])


def test_workers_are_listed_with_what_they_take_and_why_they_take_nothing(
    client: TestClient, world: Any, operator: Headers, clock: FakeClock
) -> None:
    add_worker(world, clock, "b:1", ["gpu"], seen=5)
    add_worker(world, clock, "lost:2", ["cpu"], seen=40)
    add_worker(world, clock, "old:3", ["cpu"], seen=3, refusal="Upgrade this worker.")
    add_worker(world, clock, "yesterday:4", ["cpu"], seen=90_000)
    found = client.get("/api/v1/workers", headers=operator).json()["items"]
    assert [(row["name"], row["is_there"], row["refusal"]) for row in found] == [
        ("lost:2", False, None), ("b:1", True, None), ("old:3", True, "Upgrade this worker."),
    ]  # fmt: skip


def test_a_page_says_which_queue_nobody_serves(
    client: TestClient, world: Any, operator: Headers, clock: FakeClock
) -> None:
    add_worker(world, clock, "b:1", ["gpu", "quick"])
    add_worker(world, clock, "lost:2", ["cpu"], seen=40)
    add_worker(world, clock, "old:3", ["cpu"], refusal="Upgrade this worker.")
    waiting, served = world.job(JobKind.PUSH, queue=WorkQueue.CPU), world.job()
    for path in ("/jobs", f"/jobs/{waiting}"):
        page = client.get(path, headers=operator).text
        assert "No worker is there for the cpu queue" in page
        assert "for the gpu queue" not in page
    assert "No worker is there" not in client.get(f"/jobs/{served}", headers=operator).text
    assert "Takes no jobs. Upgrade this worker." in client.get("/jobs", headers=operator).text


def test_a_job_in_shards_stands_in_line_once_and_waits_for_its_parts(
    client: TestClient, world: Any, operator: Headers
) -> None:
    job_id, parts = sharded(client, world, operator)
    assert [(part["spec"]["seed"], part["spec"]["n"], part["spec"]["shards"]) for part in parts] == [
        (5, 3, 1), (8, 3, 1), (11, 4, 1),
    ]  # fmt: skip
    assert {part["part_of"] for part in parts} == {job_id}
    assert [job["id"] for job in client.get(URL, headers=operator).json()["items"]] == [job_id]
    page = client.get("/jobs", headers=operator).text
    assert (page.count(f'/jobs/{job_id}"'), page.count(parts[0]["id"])) == (2, 0)
    page = client.get(f"/jobs/{job_id}", headers=operator).text
    assert re.search(r"Seeds 5 to 7.*Seeds 8 to 10.*Seeds 11 to 14", page, re.DOTALL)
    order = []
    with world.database.writer() as session:
        while claim := queries.claim_first(session, list(WorkQueue), worker="w", now=world.now):
            order.append(claim.job_id)
            assert queries.claim(session, UUID(job_id), worker="w", now=world.now) is None
        assert set(order) == {UUID(part["id"]) for part in parts}
        for part in order:
            assert queries.whole_without_open_parts(session, part) is None
            queries.finish(session, part, JobStatus.SUCCEEDED, world.now)
        whole = queries.whole_without_open_parts(session, order[0])
        assert whole is not None
        assert queries.claim_first(session, list(WorkQueue), worker="w", now=world.now) == (UUID(job_id), 1)


def test_a_broker_that_is_away_is_asked_once_for_a_job_and_all_its_parts(
    client: TestClient, world: Any, operator: Headers, caplog: pytest.LogCaptureFixture
) -> None:
    def asked() -> int:
        n = caplog.text.count("broker away")
        caplog.clear()
        return n

    caplog.set_level("WARNING", "app.adapters.queue")
    job_id, _ = sharded(client, world, operator)
    assert asked() == 1
    client.post(f"{URL}/{job_id}/cancel", headers=operator)
    client.post(f"{URL}/{job_id}/resume", headers=operator)
    assert asked() == 1


def test_cancelling_a_job_in_shards_ends_its_parts_and_a_resume_queues_them_again(
    client: TestClient, world: Any, operator: Headers
) -> None:
    job_id, parts = sharded(client, world, operator)
    running, done, waiting = (UUID(part["id"]) for part in parts)
    with world.database.writer() as session:
        for part in (running, done):
            assert queries.claim(session, part, worker="w", now=world.now)
        queries.finish(session, done, JobStatus.SUCCEEDED, world.now)
    assert client.post(f"{URL}/{job_id}/cancel", headers=operator).json()["status"] == "cancelled"
    with world.database.writer() as session:
        rows = {row.id: row for row in session.scalars(select(Job))}
        assert (rows[running].status, rows[running].cancel_requested) == (JobStatus.RUNNING, True)
        assert (rows[done].status, rows[waiting].status) == (JobStatus.SUCCEEDED, JobStatus.CANCELLED)
        queries.finish(session, running, JobStatus.CANCELLED, world.now)
    assert client.post(f"{URL}/{job_id}/resume", headers=operator).json()["status"] == "queued"
    with world.database.reader() as session:
        status = {row.id: row.status for row in session.scalars(select(Job))}
    assert [status[id] for id in (running, done, waiting)] == [
        JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.QUEUED,
    ]  # fmt: skip


def test_parts_move_in_line_with_their_whole(client: TestClient, world: Any, operator: Headers) -> None:
    first = world.job(priority=1, queue=WorkQueue.QUICK)
    job_id, parts = sharded(client, world, operator)
    client.post(f"{URL}/{job_id}/move", json={"direction": "top"}, headers=operator)
    with world.database.writer() as session:
        taken = [queries.claim_first(session, list(WorkQueue), worker="w", now=world.now) for _ in range(4)]
    order = [str(claim.job_id) for claim in taken if claim is not None]
    assert set(order[:3]) == {part["id"] for part in parts}
    assert order[3] == str(first)


def test_progress_of_a_whole_is_that_of_its_parts(
    client: TestClient, world: Any, operator: Headers, settings: Settings
) -> None:
    job_id, parts = sharded(client, world, operator)
    with world.database.writer() as session:
        queries.claim(session, UUID(parts[0]["id"]), worker="w", now=world.now)
        queries.finish(session, UUID(parts[0]["id"]), JobStatus.SUCCEEDED, world.now)
        queries.set_progress(session, UUID(parts[1]["id"]), progress=0.5, stage="", eta_seconds=None)
        assert queries.progress_of_parts(session) == {UUID(job_id): (1, 3, pytest.approx(0.5))}
    reaper = Reaper(open_runtime(settings))
    for _ in range(2):  # the second finds nothing new
        reaper.report_parts()
    shown = client.get(f"{URL}/{job_id}", headers=operator).json()
    assert (shown["stage"], shown["progress"], shown["status"]) == ("1 of 3 parts done", pytest.approx(0.5), "queued")
    events = client.get(f"{URL}/{job_id}/events", headers=operator).json()
    assert [event["kind"] for event in events] == ["status", "progress"]


@pytest.mark.parametrize(
    ("kind", "spec", "queue"),
    [
        (JobKind.SAMPLE, {"checkpoint_id": ANY, "n": 64}, WorkQueue.QUICK),
        (JobKind.SAMPLE, {"checkpoint_id": ANY, "n": 65}, WorkQueue.GPU),
        (JobKind.REWARD_MODEL, {"campaign_id": ANY}, WorkQueue.CPU),
        (JobKind.FINETUNE, {"checkpoint_id": ANY, "reward": {"name": "brightness"}}, WorkQueue.GPU),
        (JobKind.EVALUATE, {"checkpoint_ids": [ANY], "rewards": [{"name": "brightness"}], "n": 4}, WorkQueue.GPU),
        (JobKind.ANALYZE, {"checkpoint_ids": [ANY], "kind": "inversion", "image_id": ANY}, WorkQueue.QUICK),
        (JobKind.ANALYZE, {"checkpoint_ids": [ANY], "kind": "diversity"}, WorkQueue.GPU),
        (JobKind.PUSH, {"checkpoint_id": ANY, "repo_id": "a/b"}, WorkQueue.CPU),
        (JobKind.PRETRAIN, {}, WorkQueue.GPU),
    ],
)
def test_a_job_waits_in_the_queue_of_what_it_needs(kind: JobKind, spec: dict[str, Any], queue: WorkQueue) -> None:
    assert queue_of(parse_spec(kind, spec)) is queue


@pytest.mark.parametrize(("n", "shards", "sizes"), [(10, 1, []), (10, 4, [2, 3, 2, 3]), (3, 64, []), (5, 64, [2, 3])])
def test_seeds_are_dealt_out_once_and_evenly(n: int, shards: int, sizes: list[int]) -> None:
    spec = {"checkpoint_ids": [ANY], "rewards": [{"name": "brightness"}], "n": n, "seed": 7, "shards": shards}
    parts = parts_of(parse_spec(JobKind.EVALUATE, spec))
    assert [part.n for part in parts] == sizes  # type: ignore[attr-defined]
    seeds = [seed for part in parts for seed in range(part.seed, part.seed + part.n)]  # type: ignore[attr-defined]
    assert seeds == (list(range(7, 7 + n)) if sizes else [])


@pytest.mark.parametrize(
    ("version", "than", "expected"),
    [("0.2.0", "0.1.9", True), ("0.10.0", "0.9.9", True), ("0.1.0", "0.1.0", False), ("", "0.1.0", False)],
)
def test_versions_are_compared_by_their_numbers(version: str, than: str, expected: bool) -> None:
    assert is_newer(version, than) is expected


def test_a_worker_refuses_while_jobs_of_a_newer_version_wait(world: Any) -> None:
    world.job()
    newer = world.job(version="999.0.1")
    with world.database.writer() as session:
        reason = reason_to_refuse(session)
        assert reason is not None
        assert f"submitted by Tastemaker 999.0.1, and this worker is {__version__}" in reason
        queries.finish(session, newer, JobStatus.CANCELLED, world.now)
        assert reason_to_refuse(session) is None
