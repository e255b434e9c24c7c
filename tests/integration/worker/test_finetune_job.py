"""Finetuning through a real worker: cancel, kill -9, and resume to the very same weights."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app.db.models import Checkpoint, Job, JobEvent, Measurement, Sample, SampleReward
from app.db.queries import alarms as alarm_queries
from app.domain.effort import finetune_effort
from app.domain.enums import EventKind, JobKind, JobStatus, Role, WorkQueue
from app.domain.specs import FinetuneSpec
from app.services import accounts, job_control, jobs
from app.services.accounts import Principal
from tests.integration.worker.conftest import Stack, add_base

EPOCHS = 8


@pytest.fixture(scope="module")
def base(stack: Stack, tiny_model: Path) -> Checkpoint:
    return add_base(stack, tiny_model)


@pytest.fixture(scope="module")
def spec(base: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint_id": str(base.id),
        "reward": {"name": "brightness"},
        "epochs": EPOCHS,
        "samples_per_epoch": 12,
        "steps": 6,
        "batch_size": 32,
        "updates_per_epoch": 2,
        "ema": 0.9,
        "lr": {"peak": 1e-3},
        "eval": {"every": 4, "n": 4},
        "guard": {"holdout_rewards": [{"name": "sharpness"}]},
    }


@pytest.fixture(scope="module")
def operator(stack: Stack) -> Principal:
    with stack.database.writer() as session:
        user = accounts.ensure_user(session, "ada", Role.OPERATOR, datetime.now(UTC))
    return Principal(user.id, user.name, user.role)


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, spec: dict[str, Any]) -> Job:
    """A run that nothing happens to; what happens to the others must not show in their weights."""
    return stack.finish(stack.add_job(JobKind.FINETUNE, spec), seconds=250)


def manifests(stack: Stack, job_id: UUID) -> dict[int | None, str]:
    """The hash of every file of every saved epoch, by epoch: equal hashes are equal weights, bit for bit."""
    with stack.database.reader() as session:
        rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)).all()
    assert len({row.epoch for row in rows}) == len(rows)
    return {row.epoch: row.manifest_sha256 for row in rows}


def epochs_in_log(stack: Stack, job_id: UUID) -> list[int]:
    with stack.database.reader() as session:
        events = session.scalars(
            select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.kind == EventKind.METRICS).order_by(JobEvent.seq)
        )
        return [event.payload["epoch"] for event in events]


def test_a_run_leaves_a_checkpoint_with_samples_and_rewards_an_evaluated_epoch(
    stack: Stack, base: Checkpoint, undisturbed: Job
) -> None:
    job = undisturbed
    with stack.database.reader() as session:
        rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job.id).order_by(Checkpoint.epoch)).all()
        assert [row.epoch for row in rows] == [4, 8]
        assert job.result == {"checkpoint_id": str(rows[-1].id), "epochs": EPOCHS, "stopped_by": None}
        for row in [base, *rows]:
            samples = session.scalars(select(Sample).where(Sample.checkpoint_id == row.id)).all()
            assert sorted(sample.seed for sample in samples) == [650, 651, 652, 653]
            for name in ("brightness", "sharpness"):
                values = session.scalars(
                    select(SampleReward.value).where(
                        SampleReward.sample_id.in_([sample.id for sample in samples]), SampleReward.name == name
                    )
                ).all()
                measured = session.get_one(Measurement, (row.id, name))
                assert measured.n == len(values) == 4
                assert measured.mean == pytest.approx(sum(values) / 4)
        assert all(row.parent_id == base.id and row.kl_nats is not None for row in rows)
    assert job.resume_sha256 is not None  # a finetune keeps its state: its budget may be raised
    assert epochs_in_log(stack, job.id) == list(range(EPOCHS + 1))
    effort = finetune_effort(FinetuneSpec.model_validate(job.spec))
    with stack.database.reader() as session:
        last = session.scalars(
            select(JobEvent.payload)
            .where(JobEvent.job_id == job.id, JobEvent.kind == EventKind.METRICS)
            .order_by(JobEvent.seq.desc())
        ).first()
    assert last is not None
    assert last["network_evaluations"] == effort.rollout + effort.update, "the estimate counts what the engine counts"


def test_a_worker_killed_in_the_middle_changes_nothing_about_the_result(
    stack: Stack, spec: dict[str, Any], undisturbed: Job
) -> None:
    job_id = stack.add_job(JobKind.FINETUNE, spec)
    stack.wait_for(job_id, lambda job: 4 in epochs_in_log(stack, job_id) and job.resume_sha256 is not None)
    stack.kill_worker()
    state = stack.job(job_id).resume_sha256
    assert state is not None
    assert stack.job(job_id).status is JobStatus.RUNNING
    stack.start_worker()
    job = stack.finish(job_id, seconds=250)
    assert job.attempts == 2
    assert manifests(stack, job_id) == manifests(stack, undisturbed.id)
    assert epochs_in_log(stack, job_id).count(1) == 1, "the second attempt began at a saved state, not from the start"
    assert not stack.blobs.exists(state)


def test_a_cancelled_run_can_be_resumed_to_the_same_result(
    stack: Stack, spec: dict[str, Any], undisturbed: Job
) -> None:
    job_id = stack.add_job(JobKind.FINETUNE, spec)
    stack.wait_for(job_id, lambda job: 1 in epochs_in_log(stack, job_id))
    with stack.database.writer() as session:
        session.execute(update(Job).where(Job.id == job_id).values(cancel_requested=True))
    cancelled = stack.wait_for(job_id, lambda job: job.status.is_final)
    assert cancelled.status is JobStatus.CANCELLED
    assert cancelled.resume_sha256 is not None
    assert EPOCHS not in epochs_in_log(stack, job_id)
    with stack.database.writer() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(status=JobStatus.QUEUED, sent_at=datetime.now(UTC), attempts_without_progress=0)
        )
    stack.queue.send(WorkQueue.GPU, JobKind.FINETUNE, job_id)
    stack.finish(job_id, seconds=250)
    assert manifests(stack, job_id) == manifests(stack, undisturbed.id)
    assert sorted(set(epochs_in_log(stack, job_id))) == list(range(EPOCHS + 1))


def test_a_raised_budget_goes_on_to_the_weights_of_a_run_that_had_it_from_the_start(
    stack: Stack, spec: dict[str, Any], undisturbed: Job, operator: Principal
) -> None:
    job_id = stack.add_job(JobKind.FINETUNE, spec | {"epochs": 4})
    stack.finish(job_id, seconds=250)
    with stack.database.writer() as session:
        job_control.extend(session, stack.queue, operator, job_id, epochs=EPOCHS, now=datetime.now(UTC))
    stack.finish(job_id, seconds=250)
    assert manifests(stack, job_id) == manifests(stack, undisturbed.id)
    assert epochs_in_log(stack, job_id) == list(range(EPOCHS + 1)), "no epoch was repeated"


def test_an_epoch_that_is_saved_again_comes_out_of_the_bin(
    stack: Stack, spec: dict[str, Any], operator: Principal
) -> None:
    job_id = stack.add_job(JobKind.FINETUNE, spec | {"epochs": 1, "eval": {"every": 1, "n": 2}})
    stack.finish(job_id, seconds=250)
    now = datetime.now(UTC)
    with stack.database.writer() as session:
        session.execute(update(Checkpoint).where(Checkpoint.job_id == job_id).values(deleted_at=now))
        session.execute(update(Job).where(Job.id == job_id).values(status=JobStatus.FAILED))
        jobs.retry(session, stack.queue, stack.database, stack.blobs, operator, job_id, now)
    job = stack.finish(job_id, seconds=250)
    with stack.database.reader() as session:
        (row,) = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)).all()
    assert (row.deleted_at, job.result["checkpoint_id"]) == (None, str(row.id))


def test_an_alarm_pauses_the_run_and_going_on_does_not_stop_at_the_same_one_again(
    stack: Stack, spec: dict[str, Any], operator: Principal
) -> None:
    """Darkness rises and the held-out brightness falls with it: the plainest over-optimisation there is."""
    spec = spec | {
        "epochs": 4,
        "reward": {"name": "brightness", "weight": -1.0},
        "samples_per_epoch": 32,
        "updates_per_epoch": 4,
        "clip_nats": 100,
        "lr": {"peak": 2e-2},
        "eval": {"every": 1, "n": 16},
        "guard": {"holdout_rewards": [{"name": "brightness"}], "pause_on_alarm": True},
    }
    job_id = stack.add_job(JobKind.FINETUNE, spec)
    paused = stack.wait_for(job_id, lambda job: job.status.is_final, seconds=250)
    assert paused.status is JobStatus.CANCELLED, paused.error
    with stack.database.reader() as session:
        alarms = alarm_queries.alarms(session, job_id)
    assert len(alarms) == 1
    assert alarms[0]["witnesses"] == ["held_out:brightness"]
    assert alarms[0]["last_good_epoch"] == alarms[0]["epoch"] - 1
    assert f"Paused by an alarm at epoch {alarms[0]['epoch']} of 4" in (paused.error or "")
    assert max(epochs_in_log(stack, job_id)) == alarms[0]["epoch"]
    with stack.database.writer() as session:
        jobs.resume(session, stack.queue, operator, job_id, datetime.now(UTC))
    stack.finish(job_id, seconds=250)
    assert epochs_in_log(stack, job_id) == [0, 1, 2, 3, 4]
