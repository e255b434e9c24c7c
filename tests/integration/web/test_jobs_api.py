"""/jobs: submit, validate, list, cancel, resume, retry, metrics."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import select

from app.adapters.queue import JobQueue
from app.config import Settings
from app.db.models import Job, JobEvent, LabelSnapshot, RewardAvailability
from app.db.queries import jobs as job_queries
from app.domain.enums import Choice, EventKind, JobKind, JobStatus, WorkQueue

UNKNOWN = UUID(int=7)  # an id that nothing has

Headers = dict[str, str]
URL = "/api/v1/jobs"
ON_SQLITE_ALONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests in which no SQL of interest runs."""


def submit(client: TestClient, headers: Headers, kind: str, spec: dict[str, Any], **more: Any) -> Any:
    return client.post(URL, json={"kind": kind, "spec": spec, **more}, headers=headers)


def fields_of(answer: Any) -> list[str]:
    assert answer.status_code == 422, answer.text
    return [error["field"] for error in answer.json()["errors"]]


def row_of(world: Any, job_id: str | UUID) -> Job:
    with world.database.reader() as session:
        return session.get_one(Job, UUID(str(job_id)))


def log_of(client: TestClient, headers: Headers, job_id: str | UUID) -> list[Any]:
    return [event["payload"] for event in client.get(f"{URL}/{job_id}/events", headers=headers).json()]


def test_a_submitted_job_is_accepted_with_every_default_filled_in(
    client: TestClient, world: Any, operator: Headers
) -> None:
    base = str(world.checkpoint("critters"))
    answer = submit(client, operator, "sample", {"checkpoint_id": base, "n": 3})
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"{URL}/{body['id']}"
    assert body["spec"] == {
        "checkpoint_id": base, "n": 3, "seed": 0, "steps": 40, "eta": 1.0, "guidance": None, "shards": 1,
    }  # fmt: skip
    assert (body["status"], body["progress"], body["attempts"], body["error"]) == ("queued", 0.0, 0, None)
    assert body["name"] == "Draw 3 from critters"
    assert client.get(answer.headers["location"], headers=operator).json() == body
    assert log_of(client, operator, body["id"]) == [{"status": "queued"}]


@ON_SQLITE_ALONE
def test_a_job_keeps_the_name_it_is_given(client: TestClient, world: Any, operator: Headers) -> None:
    name = "<script>alert(1)</script>"
    answer = submit(client, operator, "sample", {"checkpoint_id": str(world.checkpoint())}, name=name)
    assert answer.json()["name"] == name


def test_a_broker_that_is_away_loses_nothing(client: TestClient, world: Any, operator: Headers) -> None:
    job = submit(client, operator, "sample", {"checkpoint_id": str(world.checkpoint())}).json()
    with world.database.reader() as session:
        sent_at = row_of(world, job["id"]).sent_at
        assert sent_at is not None
        found = job_queries.waiting(session, WorkQueue.QUICK, limit=10)
    assert found == [(UUID(job["id"]), JobKind.SAMPLE, sent_at)]  # what the reaper sends again


def test_a_repeated_submission_with_a_key_makes_one_job(
    client: TestClient, world: Any, operator: Headers, walk: Any
) -> None:
    spec = {"checkpoint_id": str(world.checkpoint())}
    headers = {**operator, "Idempotency-Key": "again"}
    answers = [submit(client, headers, "sample", spec) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[0].headers["location"] == answers[1].headers["location"]
    assert len(walk(URL)) == 1


@ON_SQLITE_ALONE
@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("sample", {"n": 0}, "spec.n"),
        ("sample", {"n": 10_001}, "spec.n"),
        ("sample", {"eta": 1.5}, "spec.eta"),
        ("sample", {"steps": 1001}, "spec.steps"),
        ("sample", {"checkpoint_id": str(UNKNOWN)}, "spec.checkpoint_id"),
        ("sample", {"checkpoint_id": "../etc"}, "spec.checkpoint_id"),
        ("sample", {"unknown": 1}, "spec.unknown"),
        ("finetune", {"reward": {"name": "beauty"}}, "spec.reward.0.name"),
        ("finetune", {"reward": {"name": "brightness"}, "checkpoint_id": str(UNKNOWN)}, "spec.checkpoint_id"),
        ("finetune", {"reward": {"name": "preference", "reward_model_id": str(UNKNOWN)}},
         "spec.reward.0.reward_model_id"),
        ("finetune", {"reward": {"name": "brightness"}, "epochs": 0}, "spec.epochs"),
        ("finetune", {"reward": {"name": "brightness"},
                      "guard": {"holdout_rewards": [{"name": "beauty"}]}}, "spec.guard.holdout_rewards.0.name"),
    ],
)  # fmt: skip
def test_a_wrong_spec_names_the_field(
    client: TestClient, world: Any, operator: Headers, kind: str, change: dict[str, Any], field: str
) -> None:
    spec = {"checkpoint_id": str(world.checkpoint()), **change}
    assert fields_of(submit(client, operator, kind, spec)) == [field]


def test_every_unknown_checkpoint_of_an_evaluation_is_named(client: TestClient, world: Any, operator: Headers) -> None:
    ids = [str(uuid4()), str(world.checkpoint()), str(uuid4())]
    answer = submit(client, operator, "evaluate", {"checkpoint_ids": ids, "rewards": [{"name": "brightness"}]})
    assert fields_of(answer) == ["spec.checkpoint_ids.0", "spec.checkpoint_ids.2"]


def test_a_reward_that_no_worker_can_run_is_refused_with_the_reason(
    client: TestClient, world: Any, operator: Headers
) -> None:
    info = {
        "name": "aesthetic", "title": "Aesthetic", "description": "", "unit": "", "direction": "", "needs": "weights",
        "range": [0, 10], "can_run": False, "why_not": "its weights are not in TASTEMAKER_WEIGHTS_DIR",
    }  # fmt: skip
    world.add(RewardAvailability(name="aesthetic", info=info, updated_at=world.now))
    spec = {"checkpoint_id": str(world.checkpoint()), "reward": {"name": "aesthetic"}}
    answer = submit(client, operator, "finetune", spec)
    assert fields_of(answer) == ["spec.reward.0.name"]
    assert "TASTEMAKER_WEIGHTS_DIR" in answer.json()["errors"][0]["message"]


@ON_SQLITE_ALONE
def test_a_kind_that_cannot_run_is_refused(client: TestClient, world: Any, operator: Headers) -> None:
    answer = submit(client, operator, "nonsense", {"checkpoint_id": str(world.checkpoint())})
    assert fields_of(answer) == ["kind"]


@ON_SQLITE_ALONE
def test_an_analysis_names_checkpoints_and_rewards_that_exist(
    client: TestClient, world: Any, operator: Headers
) -> None:
    known, missing = str(world.checkpoint()), str(uuid4())
    spec = {"kind": "reward_trajectory", "checkpoint_ids": [known, missing], "rewards": [{"name": "beauty"}]}
    assert fields_of(submit(client, operator, "analyze", spec)) == ["spec.checkpoint_ids.1", "spec.rewards.0.name"]
    spec = {"kind": "reward_trajectory", "checkpoint_ids": [known], "rewards": [{"name": "brightness"}]}
    assert submit(client, operator, "analyze", spec).status_code == 202


@ON_SQLITE_ALONE
@pytest.mark.parametrize("path", ["../outside", "/etc", "a\\b", "missing"])
def test_pretraining_reads_only_inside_the_models_folder(
    client: TestClient, settings: Any, operator: Headers, path: str
) -> None:
    settings.models_root.mkdir(parents=True)
    (settings.models_root.parent / "outside").mkdir()
    answer = submit(client, operator, "pretrain", {"data": {"type": "folder", "path": path}})
    assert fields_of(answer) == ["spec.data.path"]


@ON_SQLITE_ALONE
@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"kind": "sample", "spec": []}', b""])
def test_a_body_that_is_no_job_is_a_422_problem(client: TestClient, operator: Headers, body: bytes) -> None:
    answer = client.post(URL, content=body, headers={**operator, "Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@ON_SQLITE_ALONE
def test_a_body_that_is_too_large_is_refused(client: TestClient, operator: Headers, settings: Any) -> None:
    body = b'{"kind": "' + b"x" * settings.max_upload_bytes + b'"}'
    answer = client.post(URL, content=body, headers={**operator, "Content-Type": "application/json"})
    assert answer.status_code == 413
    assert f"{settings.max_upload_bytes:,} bytes" in answer.json()["detail"]


def test_a_reward_model_job_freezes_the_votes_of_this_moment(client: TestClient, world: Any, operator: Headers) -> None:
    choices = [Choice.LEFT, Choice.TIE, Choice.SKIP]
    campaign = world.campaign(world.checkpoint(), choices)
    first, second = (
        submit(client, operator, "reward_model", {"campaign_id": str(campaign)}).json()["id"] for _ in range(2)
    )
    with world.database.reader() as session:
        snapshots = [
            session.get_one(LabelSnapshot, UUID(row_of(world, id).inputs["snapshot_id"])) for id in (first, second)
        ]
    assert snapshots[0].sha256 == snapshots[1].sha256
    assert snapshots[0].n_labels == 3
    votes = [json.loads(line) for line in world.blobs.get(snapshots[0].sha256).splitlines()]
    assert [vote["choice"] for vote in votes] == [choice.value for choice in choices]
    assert set(votes[0]) == {
        "comparison_id", "rater", "left_sha256", "right_sha256", "left_sample_id", "right_sample_id", "choice",
        "weight", "is_random", "selection_probability", "repeat_of",
    }  # fmt: skip
    assert all(world.blobs.exists(vote["left_sha256"]) for vote in votes)


@pytest.mark.parametrize("choices", [[], [Choice.SKIP, Choice.BOTH_BAD]])
def test_a_campaign_without_votes_to_fit_is_refused(
    client: TestClient, world: Any, operator: Headers, choices: list[Choice]
) -> None:
    campaign = world.campaign(world.checkpoint(), choices)
    answer = submit(client, operator, "reward_model", {"campaign_id": str(campaign)})
    assert fields_of(answer) == ["spec.campaign_id"]
    assert "votes" in answer.json()["detail"]
    assert fields_of(submit(client, operator, "reward_model", {"campaign_id": str(uuid4())})) == ["spec.campaign_id"]


def test_lists_filter_by_kind_and_status(world: Any, walk: Any) -> None:
    queued = world.job()
    failed = world.job(status=JobStatus.FAILED)
    tuned = world.job(JobKind.FINETUNE, JobStatus.FAILED)
    assert [job["id"] for job in walk(URL)] == [str(id) for id in (tuned, failed, queued)]
    assert [job["id"] for job in walk(URL, status="failed")] == [str(tuned), str(failed)]
    assert [job["id"] for job in walk(URL, status="failed", kind="sample")] == [str(failed)]


@ON_SQLITE_ALONE
@pytest.mark.parametrize("query", ["status=stuck", "kind=x", "status=failed' OR 1=1"])
def test_an_unknown_filter_value_is_refused(client: TestClient, operator: Headers, query: str) -> None:
    assert client.get(f"{URL}?{query}", headers=operator).status_code == 422


def test_filters_reach_no_other_column(client: TestClient, world: Any, operator: Headers) -> None:
    world.job()
    answer = client.get(f"{URL}?created_by__password_hash__startswith=x&order_by=spec", headers=operator)
    assert len(answer.json()["items"]) == 1  # unknown parameters select nothing and sort by nothing


def test_a_queued_job_is_cancelled_at_once(client: TestClient, world: Any, operator: Headers) -> None:
    job_id = world.job()
    answer = client.post(f"{URL}/{job_id}/cancel", headers=operator)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["finished_at"] is not None
    assert log_of(client, operator, job_id)[-1] == {"status": "cancelled"}
    with world.database.writer() as session:
        assert job_queries.claim(session, job_id, worker="late", now=world.now) is None


def test_a_running_job_is_asked_to_stop(client: TestClient, world: Any, operator: Headers) -> None:
    job_id = world.job(status=JobStatus.RUNNING, attempts=1)
    for _ in range(2):
        answer = client.post(f"{URL}/{job_id}/cancel", headers=operator)
        assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert answer.json()["cancel_requested"] is True
    assert row_of(world, job_id).cancel_requested is True


@ON_SQLITE_ALONE
@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_has_ended_cannot_be_cancelled(
    client: TestClient, world: Any, operator: Headers, status: JobStatus
) -> None:
    answer = client.post(f"{URL}/{world.job(status=status)}/cancel", headers=operator)
    assert answer.status_code == 409
    assert status.value in answer.json()["detail"]


@ON_SQLITE_ALONE
@pytest.mark.parametrize("call", ["resume", "retry"])
@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED])
def test_only_failed_and_cancelled_jobs_start_again(
    client: TestClient, world: Any, operator: Headers, call: str, status: JobStatus
) -> None:
    assert client.post(f"{URL}/{world.job(status=status)}/{call}", headers=operator).status_code == 409


@pytest.mark.parametrize(("call", "state"), [("resume", "a" * 64), ("retry", None)])
def test_resume_keeps_the_state_and_retry_drops_it(
    client: TestClient, world: Any, operator: Headers, call: str, state: str | None
) -> None:
    job_id = world.job(
        JobKind.FINETUNE, JobStatus.FAILED, error="out of memory", resume_sha256="a" * 64, progress=0.5, attempts=3,
        attempts_without_progress=3, cancel_requested=True, finished_at=world.now,
    )  # fmt: skip
    answer = client.post(f"{URL}/{job_id}/{call}", headers=operator)
    body = answer.json()
    assert (answer.status_code, body["status"], body["error"], body["finished_at"]) == (200, "queued", None, None)
    assert (body["resumable"], body["progress"]) == ((True, 0.5) if call == "resume" else (False, 0.0))
    row = row_of(world, job_id)
    assert (row.resume_sha256, row.attempts, row.attempts_without_progress) == (state, 3, 0)
    assert row.cancel_requested is False
    assert row.sent_at is not None
    with world.database.writer() as session:
        claim = job_queries.claim(session, job_id, worker="w", now=world.now)
    assert claim is not None
    assert claim.attempt == 4


@pytest.mark.parametrize("shared", [False, True])
def test_retry_deletes_the_dropped_state_unless_another_job_has_it(
    client: TestClient, world: Any, operator: Headers, shared: bool
) -> None:
    state = world.blobs.put(b"optimizer and weights")
    job_id = world.job(JobKind.FINETUNE, JobStatus.FAILED, resume_sha256=state)
    if shared:
        world.job(JobKind.FINETUNE, JobStatus.FAILED, resume_sha256=state)
    assert client.post(f"{URL}/{job_id}/retry", headers=operator).status_code == 200
    assert world.blobs.exists(state) is shared


@ON_SQLITE_ALONE
@pytest.mark.parametrize("call", ["", "/events", "/metrics"])
def test_an_unknown_job_is_404(client: TestClient, operator: Headers, call: str) -> None:
    assert client.get(f"{URL}/{uuid4()}{call}", headers=operator).status_code == 404


@ON_SQLITE_ALONE
@pytest.mark.parametrize("call", ["cancel", "resume", "retry"])
def test_an_unknown_job_cannot_be_changed(client: TestClient, operator: Headers, call: str) -> None:
    assert client.post(f"{URL}/{uuid4()}/{call}", headers=operator).status_code == 404


def test_events_are_numbered_and_read_from_any_number(client: TestClient, world: Any, operator: Headers) -> None:
    job_id = world.job(status=JobStatus.RUNNING)
    with world.database.writer() as session:
        for number in range(1, 6):
            job_queries.append_event(session, job_id, EventKind.LOG, {"message": f"line {number}"}, world.now)
    read = client.get(f"{URL}/{job_id}/events", headers=operator).json()
    assert [event["seq"] for event in read] == [1, 2, 3, 4, 5]
    assert read[0]["kind"] == "log"
    rest = client.get(f"{URL}/{job_id}/events", params={"after": 3}, headers=operator).json()
    assert [event["payload"]["message"] for event in rest] == ["line 4", "line 5"]
    two = client.get(f"{URL}/{job_id}/events", params={"limit": 2}, headers=operator).json()
    assert [event["seq"] for event in two] == [1, 2]
    assert client.get(f"{URL}/{job_id}/events", params={"after": -1}, headers=operator).status_code == 422


def test_metrics_are_columns_and_a_repeated_epoch_counts_once(
    client: TestClient, world: Any, operator: Headers
) -> None:
    job_id = world.job(JobKind.FINETUNE, JobStatus.RUNNING)
    rows = [
        {"epoch": 1, "reward_mean": 0.1},
        {"epoch": 2, "reward_mean": 0.2},
        {"epoch": 2, "reward_mean": 0.25, "approx_kl": 0.01},  # repeated after a resume
        {"epoch": 3, "reward_mean": 0.3, "approx_kl": 0.02},
    ]
    with world.database.writer() as session:
        for row in rows:
            job_queries.append_event(session, job_id, EventKind.METRICS, row, world.now)
        job_queries.append_event(session, job_id, EventKind.LOG, {"message": "no metric"}, world.now)
    assert client.get(f"{URL}/{job_id}/metrics", headers=operator).json() == {
        "epoch": [1, 2, 3],
        "reward_mean": [0.1, 0.25, 0.3],
        "approx_kl": [None, 0.01, 0.02],
    }


def test_a_job_without_metrics_has_empty_columns(client: TestClient, world: Any, operator: Headers) -> None:
    assert client.get(f"{URL}/{world.job()}/metrics", headers=operator).json() == {"epoch": []}


def test_a_refused_submission_leaves_nothing_behind(client: TestClient, world: Any, operator: Headers) -> None:
    submit(client, operator, "sample", {"checkpoint_id": str(uuid4())})
    with world.database.reader() as session:
        assert session.scalars(select(Job)).all() == []
        assert session.scalars(select(JobEvent)).all() == []


class TestSending:
    """With a broker in memory: what a worker would find there."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"broker_url": SecretStr("memory://")})

    @pytest.fixture
    def waiting(self, client: TestClient) -> Callable[[], int]:
        """Messages since the test began; the memory outlives tests."""
        queue: JobQueue = client.app.state.tastemaker.queue  # type: ignore[attr-defined]
        before = sum(queue.waiting().values())
        return lambda: sum(queue.waiting().values()) - before

    def test_a_message_goes_out_for_every_job_that_is_queued(
        self, client: TestClient, world: Any, operator: Headers, waiting: Callable[[], int]
    ) -> None:
        submit(client, operator, "sample", {"checkpoint_id": str(world.checkpoint())})
        assert waiting() == 1
        client.post(f"{URL}/{world.job(status=JobStatus.FAILED)}/retry", headers=operator)
        assert waiting() == 2

    def test_a_refused_or_repeated_submission_sends_nothing(
        self, client: TestClient, world: Any, operator: Headers, waiting: Callable[[], int]
    ) -> None:
        submit(client, operator, "sample", {"checkpoint_id": str(uuid4())})
        assert waiting() == 0
        spec = {"checkpoint_id": str(world.checkpoint())}
        for _ in range(2):
            submit(client, {**operator, "Idempotency-Key": "once"}, "sample", spec)
        assert waiting() == 1
