"""Who holds a job may write, nobody else: claims, fences, recovery and the reaper, on both databases."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update

from app.adapters.blobs import BlobStore
from app.adapters.queue import JobQueue
from app.config import Settings
from app.db.models import Checkpoint, Job, JobEvent, Measurement, Sample
from app.db.queries import checkpoints as checkpoint_queries
from app.db.queries import jobs as queries
from app.db.queries import samples as sample_queries
from app.db.queries.jobs import Claim
from app.db.queries.samples import DrawnImage, Recipe
from app.db.session import Database
from app.domain.enums import CheckpointKind, EventKind, JobKind, JobStatus, WorkQueue
from app.domain.jobs import (
    MAX_ATTEMPTS_WITHOUT_PROGRESS,
    MAX_WORKERS_LOST,
    RESEND_AFTER_SECONDS,
    STALE_AFTER_SECONDS,
)
from tests.conftest import FakeClock
from worker.jobs.fence import Fence, LostClaimError
from worker.jobs.monitor import JobMonitor
from worker.jobs.reaper import Reaper
from worker.jobs.recovery import recover
from worker.jobs.runtime import Runtime

NewJob = Callable[..., UUID]


@pytest.fixture
def new_job(database: Database, clock: FakeClock) -> NewJob:
    def _new_job(**columns: object) -> UUID:
        with database.writer() as session:
            columns = {"kind": JobKind.SAMPLE, "spec": {}} | columns
            job = Job(name="test", created_at=clock.now(), **columns)
            session.add(job)
        return job.id

    return _new_job


@pytest.fixture
def take(database: Database, clock: FakeClock) -> Callable[[UUID], Claim | None]:
    def _take(job_id: UUID) -> Claim | None:
        with database.writer() as session:
            return queries.claim(session, job_id, worker="test", now=clock.now())

    return _take


@pytest.fixture
def runtime(settings: Settings, database: Database, clock: FakeClock, tmp_path: Path) -> Runtime:
    queue = JobQueue(settings.celery_broker_url)
    return Runtime(settings, database, BlobStore(str(tmp_path / "blobs")), queue, clock, "test")


def row(database: Database, job_id: UUID) -> Job:
    with database.reader() as session:
        return session.get_one(Job, job_id)


def events(database: Database, job_id: UUID) -> list[JobEvent]:
    with database.reader() as session:
        return list(session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)))


def test_a_queued_job_is_claimed_once(
    database: Database, new_job: NewJob, take: Callable[[UUID], Claim | None]
) -> None:
    job_id = new_job()
    assert take(job_id) == Claim(job_id, 1)
    assert take(job_id) is None
    assert take(uuid4()) is None
    assert row(database, job_id).status is JobStatus.RUNNING


def test_a_fenced_worker_cannot_write(
    database: Database, clock: FakeClock, new_job: NewJob, take: Callable[[UUID], Claim | None]
) -> None:
    job_id = new_job()
    first = take(job_id)
    assert first is not None
    fence = Fence(database, first, clock)
    monitor = JobMonitor(fence, clock)
    monitor.log("still mine")
    with database.writer() as session:
        assert recover(session, first, reason="was lost", now=clock.now())
    second = take(job_id)
    assert second == Claim(job_id, 2)
    before = len(events(database, job_id))
    with pytest.raises(LostClaimError):
        monitor.log("no longer mine")
    with pytest.raises(LostClaimError):
        monitor.progress(0.5, stage="no longer mine")
    with pytest.raises(LostClaimError):
        monitor.should_stop()
    with pytest.raises(LostClaimError), fence.transaction() as session:
        queries.finish(session, job_id, JobStatus.SUCCEEDED, clock.now())
    with database.writer() as session:
        assert queries.heartbeat(session, first, clock.now()) is None
        assert not recover(session, first, reason="was lost", now=clock.now())
    assert len(events(database, job_id)) == before
    assert row(database, job_id).status is JobStatus.RUNNING
    JobMonitor(Fence(database, second, clock), clock).log("mine now")
    assert [event.seq for event in events(database, job_id)] == list(range(1, before + 2))


def test_a_transaction_that_fails_leaves_no_half(
    database: Database, clock: FakeClock, new_job: NewJob, take: Callable[[UUID], Claim | None]
) -> None:
    job_id = new_job()
    claim = take(job_id)
    assert claim is not None
    fence = Fence(database, claim, clock)

    def fail_after_writing() -> None:
        with fence.transaction() as session:
            queries.finish(session, job_id, JobStatus.SUCCEEDED, clock.now(), result={"half": True})
            raise RuntimeError("the next statement failed")

    with pytest.raises(RuntimeError):
        fail_after_writing()
    assert row(database, job_id).status is JobStatus.RUNNING
    assert [event.seq for event in events(database, job_id)] == [1]


def test_a_job_that_gets_nowhere_fails_and_one_that_gets_on_does_not(
    database: Database, clock: FakeClock, new_job: NewJob, take: Callable[[UUID], Claim | None]
) -> None:
    stuck, moving = new_job(), new_job()
    for _ in range(MAX_ATTEMPTS_WITHOUT_PROGRESS + 2):
        for job_id in (stuck, moving):
            claim = take(job_id)
            if claim is None:
                continue
            with database.writer() as session:
                if job_id == moving:
                    queries.set_resume_state(session, job_id, "0" * 64)
                recover(session, claim, reason="was killed", now=clock.now())
    failed = row(database, stuck)
    assert (failed.status, failed.attempts) == (JobStatus.FAILED, MAX_ATTEMPTS_WITHOUT_PROGRESS)
    assert failed.error is not None
    assert "was killed, 3 times in a row" in failed.error
    assert row(database, moving).status is JobStatus.QUEUED


def drain(queue: JobQueue) -> None:
    with queue._app().connection_for_write() as connection:
        connection.default_channel.queue_purge(WorkQueue.GPU.channel)


class Stopwatch:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_job_outlives_more_lost_workers_than_deaths_of_its_own(
    database: Database, clock: FakeClock, new_job: NewJob, take: Callable[[UUID], Claim | None]
) -> None:
    job_id = new_job()
    for _ in range(MAX_WORKERS_LOST):
        claim = take(job_id)
        assert claim is not None
        with database.writer() as session:
            recover(session, claim, reason="lost its worker", now=clock.now(), worker_lost=True)
    failed = row(database, job_id)
    assert (failed.status, failed.attempts) == (JobStatus.FAILED, MAX_WORKERS_LOST)
    assert failed.error is not None
    assert f"{MAX_WORKERS_LOST} times in a row" in failed.error

    unlucky = new_job()
    for worker_lost in (True, False, True, True, False):
        claim = take(unlucky)
        assert claim is not None
        with database.writer() as session:
            assert recover(session, claim, reason="was lost", now=clock.now(), worker_lost=worker_lost)
    assert row(database, unlucky).status is JobStatus.QUEUED

    claim = take(unlucky)
    assert claim is not None
    with database.writer() as session:
        queries.set_resume_state(session, unlucky, "0" * 64)
        recover(session, claim, reason="lost its worker", now=clock.now(), worker_lost=True)
    assert (row(database, unlucky).attempts_without_progress, row(database, unlucky).workers_lost) == (0, 1)


def test_a_job_that_memory_runs_out_for_fails_naming_the_batch_size_to_try(
    database: Database, clock: FakeClock, new_job: NewJob, take: Callable[[UUID], Claim | None]
) -> None:
    job_id = new_job(kind=JobKind.FINETUNE, spec={"batch_size": 40})
    for _ in range(MAX_ATTEMPTS_WITHOUT_PROGRESS):
        claim = take(job_id)
        assert claim is not None
        with database.writer() as session:
            recover(session, claim, reason="was killed (signal 9)", now=clock.now())
    assert "try batch_size 20 instead of 40" in (row(database, job_id).error or "")


def test_the_reaper_takes_jobs_from_workers_that_fell_silent_and_from_no_others(
    runtime: Runtime, database: Database, clock: FakeClock, new_job: NewJob, take: Callable[[UUID], Claim | None]
) -> None:
    silent, alive, unwanted = new_job(), new_job(), new_job()
    claims = [take(job_id) for job_id in (silent, alive, unwanted)]
    with database.writer() as session:
        session.execute(update(Job).where(Job.id == unwanted).values(cancel_requested=True))
    stopwatch = Stopwatch()
    reaper = Reaper(runtime, stopwatch)
    reaper.requeue_stale()
    clock.advance(seconds=1)
    with database.writer() as session:
        assert claims[1] is not None
        assert queries.heartbeat(session, claims[1], clock.now()) is False
    stopwatch.seconds += STALE_AFTER_SECONDS
    reaper.requeue_stale()
    assert row(database, silent).status is JobStatus.QUEUED
    assert row(database, alive).status is JobStatus.RUNNING
    assert row(database, unwanted).status is JobStatus.CANCELLED


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_takes_no_job_away_and_leaves_none_behind(
    runtime: Runtime, database: Database, clock: FakeClock, new_job: NewJob,
    take: Callable[[UUID], Claim | None], hours: int,
) -> None:  # fmt: skip
    alive, silent = new_job(), new_job()
    claims = [take(job_id) for job_id in (alive, silent)]
    assert claims[0] is not None
    stopwatch = Stopwatch()
    reaper = Reaper(runtime, stopwatch)
    reaper.requeue_stale()
    clock.advance(hours=hours)
    for _ in range(10):  # the reaper's host and the live worker's are off from now on
        stopwatch.seconds += STALE_AFTER_SECONDS / 9
        clock.advance(seconds=STALE_AFTER_SECONDS / 9)
        with database.writer() as session:
            assert queries.heartbeat(session, claims[0], clock.now()) is False
        reaper.requeue_stale()
    assert row(database, alive).status is JobStatus.RUNNING
    assert row(database, silent).status is JobStatus.QUEUED


def test_one_of_several_senders_gets_to_send(database: Database, clock: FakeClock, new_job: NewJob) -> None:
    job_id = new_job()
    with database.reader() as session:
        found = queries.waiting(session, WorkQueue.GPU, limit=10)
        assert found == [(job_id, JobKind.SAMPLE, None)]
        assert queries.waiting(session, WorkQueue.CPU, limit=10) == []
    for is_first in (True, False):
        with database.writer() as session:
            assert queries.mark_sent(session, job_id, last_sent=None, now=clock.now()) is is_first
    sent_at = clock.now()
    clock.advance(hours=-1)  # a clock that was put back keeps nothing from being sent again
    with database.writer() as session:
        assert queries.mark_sent(session, job_id, last_sent=sent_at, now=clock.now())


def test_a_message_that_may_be_lost_is_sent_again_once_its_queue_is_empty(
    runtime: Runtime, database: Database, clock: FakeClock, new_job: NewJob
) -> None:
    queue = JobQueue("memory://")
    runtime, stopwatch = replace(runtime, queue=queue), Stopwatch()
    reaper = Reaper(runtime, stopwatch)
    drain(queue)  # the memory outlives tests
    long_ago, never = new_job(sent_at=clock.now() - timedelta(hours=1)), new_job()
    reaper.send_forgotten()
    assert (row(database, never).sent_at, queue.waiting()[WorkQueue.GPU]) == (clock.now(), 1)
    stopwatch.seconds += RESEND_AFTER_SECONDS
    reaper.send_forgotten()
    assert queue.waiting()[WorkQueue.GPU] == 1, "a message waits: no other is needed"
    drain(queue)
    clock.advance(seconds=1)
    reaper.send_forgotten()
    assert queue.waiting()[WorkQueue.GPU] == 1, "the other was sent less than ten seconds ago"
    assert row(database, long_ago).sent_at == clock.now()
    drain(queue)


def test_a_worker_takes_jobs_of_its_queues_alone_and_the_first_in_line(
    database: Database, clock: FakeClock, new_job: NewJob
) -> None:
    gpu, cpu, quick = (new_job(queue=queue, queue_position=n) for n, queue in enumerate(WorkQueue))
    for queues, expected in (
        ([WorkQueue.CPU], cpu), ([WorkQueue.CPU], None), ([WorkQueue.CPU, WorkQueue.QUICK], quick), (WorkQueue, gpu),
    ):  # fmt: skip
        with database.writer() as session:
            claim = queries.claim_first(session, list(queues), worker="test", now=clock.now())
        assert (claim.job_id if claim else None) == expected


def test_workers_that_race_for_jobs_get_each_once(database: Database, clock: FakeClock, new_job: NewJob) -> None:
    jobs = {new_job() for _ in range(40)}
    start = threading.Barrier(6)

    def work(number: int) -> list[UUID]:
        start.wait()
        mine = []
        while True:
            with database.writer() as session:
                claim = queries.claim_first(session, list(WorkQueue), worker=str(number), now=clock.now())
            if claim is None:
                return mine
            mine.append(claim.job_id)

    with ThreadPoolExecutor(6) as pool:
        taken = [job_id for mine in pool.map(work, range(6)) for job_id in mine]
    assert len(taken) == len(jobs)
    assert set(taken) == jobs
    assert {row(database, job_id).attempts for job_id in jobs} == {1}


def test_progress_is_written_twice_a_second_at_most_and_never_lost(
    database: Database, clock: FakeClock, new_job: NewJob, take: Callable[[UUID], Claim | None]
) -> None:
    job_id = new_job()
    claim = take(job_id)
    assert claim is not None
    monitor = JobMonitor(Fence(database, claim, clock), clock)
    for step in range(101):
        monitor.progress(step / 1000, stage=f"step {step}")
        clock.advance(seconds=0.125)
    logged = [event.payload["progress"] for event in events(database, job_id) if event.kind is EventKind.PROGRESS]
    assert len(logged) >= 5
    assert all(after - before >= 0.01 for before, after in pairwise(logged)), (
        "a report a thousandth, an event a hundredth"
    )
    clock.advance(seconds=1)
    assert monitor.should_stop() is False  # writes what was held back
    assert row(database, job_id).progress == pytest.approx(0.1)
    assert row(database, job_id).stage == "step 100"


def test_metrics_without_json_become_null(
    database: Database, clock: FakeClock, new_job: NewJob, take: Callable[[UUID], Claim | None]
) -> None:
    claim = take(new_job())
    assert claim is not None
    JobMonitor(Fence(database, claim, clock), clock).metrics(
        {"epoch": 1, "kl_nats": float("nan"), "reward_quantiles": [1.0, float("inf"), None]}
    )
    payload = events(database, claim.job_id)[-1].payload
    assert payload == {"epoch": 1, "kl_nats": None, "reward_quantiles": [1.0, None, None]}


@pytest.fixture
def recipe(database: Database, clock: FakeClock) -> Recipe:
    with database.writer() as session:
        checkpoint = Checkpoint(
            name="base",
            kind=CheckpointKind.BASE,
            source="test",
            manifest_sha256="0" * 64,
            image_size=16,
            created_at=clock.now(),
        )
        session.add(checkpoint)
    return Recipe(checkpoint.id, steps=10, eta=1.0)


def test_samples_that_exist_are_reused_and_ordinals_have_no_gaps(
    database: Database, clock: FakeClock, recipe: Recipe
) -> None:
    def draw(*seeds: int) -> list[Sample]:
        images = [DrawnImage(seed, f"{seed:064d}", 16, 16) for seed in seeds]
        with database.writer() as session:
            return sample_queries.add_samples(session, recipe, images, job_id=None, now=clock.now())

    first = draw(3, 4, 5)
    second = draw(5, 6, 3)
    assert [sample.id for sample in second if sample.seed != 6] == [first[2].id, first[0].id]
    assert [sample.ordinal for sample in first] == [0, 1, 2]
    assert second[1].ordinal == 3
    with database.reader() as session:
        assert session.get_one(Checkpoint, recipe.checkpoint_id).n_samples == 4
        assert set(sample_queries.samples_by_seed(session, recipe, range(10))) == {3, 4, 5, 6}
        guided = Recipe(recipe.checkpoint_id, 10, 1.0, {"prompt": "a cat", "scale": 1.0})
        assert sample_queries.samples_by_seed(session, guided, range(10)) == {}


def test_a_measurement_on_fewer_samples_does_not_replace_one_on_more(database: Database, recipe: Recipe) -> None:
    for mean, n in ((0.5, 1000), (0.9, 16), (0.6, 1000)):
        with database.writer() as session:
            checkpoint_queries.record_measurements(session, recipe.checkpoint_id, {"brightness": (mean, 0.1, n)})
        with database.reader() as session:
            stored = session.get_one(Measurement, (recipe.checkpoint_id, "brightness"))
        assert (stored.mean, stored.n) == (0.5 if n == 16 else mean, 1000)
