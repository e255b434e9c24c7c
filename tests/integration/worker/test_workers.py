"""Several real workers: queues by need, work in shards gathered once, and workers that are too old for the database."""

import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from sqlalchemy import select, text

from app.db.models import Checkpoint, Job, Measurement, Sample, SampleReward, Worker
from app.db.queries import jobs as queries
from app.domain.enums import JobKind, JobStatus, Role, WorkQueue
from app.services import accounts, submission
from app.services.submission import Submission
from tests.integration.worker.conftest import Stack


class Fleet(NamedTuple):
    """Two workers on one database and broker: both take quick jobs, each another kind beside."""

    stack: Stack
    gpu: subprocess.Popen[bytes]
    cpu: subprocess.Popen[bytes]

    def submit(self, kind: JobKind, spec: dict[str, Any]) -> UUID:
        """As the web process does."""
        now = datetime.now(UTC)
        with self.stack.database.writer() as session:
            user = accounts.ensure_user(session, "olga", Role.OPERATOR, now)
            who = accounts.Principal(user_id=user.id, name=user.name, role=user.role)
            to = Submission(session, self.stack.settings, self.stack.blobs, self.stack.queue, who, now)
            return submission.submit(to, kind, spec).id

    def parts(self, job_id: UUID) -> list[Job]:
        with self.stack.database.reader() as session:
            return list(queries.parts_of(session, job_id))

    def there(self) -> dict[str, Worker]:
        with self.stack.database.reader() as session:
            return {row.name.rpartition(":")[2]: row for row in session.scalars(select(Worker))}


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Iterator[Fleet]:
    assert stack.worker is not None
    stack.stop_worker()
    gpu = stack.spawn_worker([WorkQueue.GPU, WorkQueue.QUICK])
    cpu = stack.spawn_worker([WorkQueue.QUICK, WorkQueue.CPU])
    fleet = Fleet(stack, gpu, cpu)
    try:  # rows of workers that other tests killed are still there
        until("both workers are there", lambda: fleet.there().keys() >= {str(gpu.pid), str(cpu.pid)})
        yield fleet
    finally:
        for worker in (gpu, cpu):
            worker.kill()
            worker.wait()
        stack.start_worker()


def until(what: str, holds: Any, *, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.05)


def drawing(checkpoint: Checkpoint, n: int, **values: Any) -> dict[str, Any]:
    return {"checkpoint_id": str(checkpoint.id), "n": n, "seed": 0, "steps": 3, "eta": 1.0, **values}


def test_workers_say_that_they_are_there_and_what_they_take(fleet: Fleet) -> None:
    there = fleet.there()
    assert there[str(fleet.gpu.pid)].queues == ["gpu", "quick"]
    assert there[str(fleet.cpu.pid)].queues == ["quick", "cpu"]
    assert there[str(fleet.gpu.pid)].refusal is there[str(fleet.cpu.pid)].refusal is None


def test_a_job_goes_to_a_worker_that_serves_its_queue_past_others_that_wait(
    fleet: Fleet, tiny_checkpoint: Checkpoint
) -> None:
    long = [fleet.submit(JobKind.SAMPLE, drawing(tiny_checkpoint, 65, seed=100 * n, steps=25)) for n in range(2)]
    until("one of them runs", lambda: any(fleet.stack.job(id).status is JobStatus.RUNNING for id in long))
    quick = fleet.stack.finish(fleet.submit(JobKind.SAMPLE, drawing(tiny_checkpoint, 3, seed=5000)))
    assert quick.queue is WorkQueue.QUICK
    assert (quick.worker or "").endswith(f":{fleet.cpu.pid}")
    done = [fleet.stack.finish(job_id) for job_id in long]
    assert {(job.worker or "").rpartition(":")[2] for job in done} == {str(fleet.gpu.pid)}
    assert quick.finished_at < max(job.finished_at for job in done)  # type: ignore[type-var, operator]


def test_shards_are_drawn_by_several_workers_and_gathered_once(fleet: Fleet, tiny_checkpoint: Checkpoint) -> None:
    job = fleet.stack.finish(fleet.submit(JobKind.SAMPLE, drawing(tiny_checkpoint, 64, steps=40, shards=4)))
    parts = fleet.parts(job.id)
    assert [(part.spec["seed"], part.spec["n"]) for part in parts] == [(0, 16), (16, 16), (32, 16), (48, 16)]
    assert {part.status for part in parts} == {JobStatus.SUCCEEDED}
    assert len({part.worker for part in parts}) == 2
    assert job.started_at >= max(part.finished_at for part in parts)  # type: ignore[type-var, operator]
    assert (job.result["drawn"], job.attempts) == (64, 1)
    with fleet.stack.database.reader() as session:
        samples = session.scalars(select(Sample).where(Sample.checkpoint_id == tiny_checkpoint.id)).all()
        assert sorted(sample.seed for sample in samples) == list(range(64))
        assert sorted(sample.ordinal for sample in samples) == list(range(64))


def test_a_sharded_evaluation_says_what_an_undivided_one_does(fleet: Fleet, tiny_checkpoint: Checkpoint) -> None:
    spec = {
        "checkpoint_ids": [str(tiny_checkpoint.id)], "rewards": [{"name": "brightness"}, {"name": "sharpness"}],
        "n": 90, "seed": 0, "steps": 4,
    }  # fmt: skip
    sharded = fleet.stack.finish(fleet.submit(JobKind.EVALUATE, spec | {"shards": 3}))
    assert {part.status for part in fleet.parts(sharded.id)} == {JobStatus.SUCCEEDED}
    whole = fleet.stack.finish(fleet.submit(JobKind.EVALUATE, spec))
    for name, found in sharded.result["rewards"][str(tiny_checkpoint.id)].items():
        expected = whole.result["rewards"][str(tiny_checkpoint.id)][name]
        assert found == pytest.approx(expected, rel=1e-6)
    with fleet.stack.database.reader() as session:
        rows = session.scalars(select(Measurement).where(Measurement.checkpoint_id == tiny_checkpoint.id)).all()
        assert {(row.name, row.n) for row in rows} == {("brightness", 90), ("sharpness", 90)}
        scored = session.scalars(
            select(SampleReward.value)
            .join(Sample)
            .where(SampleReward.name == "brightness", Sample.checkpoint_id == tiny_checkpoint.id)
        ).all()
        assert len(scored) == 90


def test_a_part_that_fails_is_done_by_the_whole(fleet: Fleet, tiny_checkpoint: Checkpoint) -> None:
    job_id = fleet.submit(JobKind.SAMPLE, drawing(tiny_checkpoint, 60, steps=40, shards=2))
    with fleet.stack.database.writer() as session:
        queries.finish(
            session, fleet.parts(job_id)[0].id, JobStatus.FAILED, datetime.now(UTC), error="struck by a test"
        )
    job = fleet.stack.finish(job_id)
    with fleet.stack.database.reader() as session:
        samples = session.scalars(select(Sample).where(Sample.checkpoint_id == tiny_checkpoint.id)).all()
    assert len(samples) == 60
    assert any(sample.job_id == job.id for sample in samples)


def test_workers_older_than_the_database_stop_with_the_reason_and_no_job_is_lost(
    fleet: Fleet, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    stack = fleet.stack
    running = fleet.submit(JobKind.SAMPLE, drawing(tiny_checkpoint, 24, steps=200))
    until("it runs", lambda: stack.job(running).progress > 0)
    with stack.database.writer() as session:
        known = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert fleet.gpu.wait(timeout=60) == fleet.cpu.wait(timeout=60) == 0
    job = stack.job(running)
    assert (job.status, job.attempts_without_progress) == (JobStatus.QUEUED, 0)

    log = tmp_path / "old-worker.log"
    old = stack.spawn_worker(list(WorkQueue), log)
    assert old.wait(timeout=60) != 0
    said = log.read_text()
    assert "the database is at 9999, of a newer version. Upgrade this worker." in said
    assert "Traceback" not in said
    refused = fleet.there()[str(old.pid)]
    assert refused.refusal is not None
    assert refused.refusal in said
    assert stack.job(running).status is JobStatus.QUEUED

    with stack.database.writer() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :known"), {"known": known})
    new = stack.spawn_worker(list(WorkQueue))
    try:
        assert stack.finish(running).attempts == 2
    finally:
        new.terminate()
        new.wait(timeout=60)
    assert str(new.pid) not in fleet.there(), "a worker that ends in order takes its row along"
