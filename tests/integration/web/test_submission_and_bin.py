"""No checkpoint is deleted between the check of a job that names it and the job, and no job slips in behind a bin."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters.queue import JobQueue
from app.config import Settings
from app.db.models import Checkpoint, Job
from app.db.session import Database
from app.domain.enums import JobKind, Role
from app.domain.errors import ConflictError, InvalidSpecError
from app.services import accounts, bin, submission
from app.services.accounts import Principal
from app.services.submission import Submission

_POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)
pytestmark = pytest.mark.parametrize("database_url", [_POSTGRES], indirect=True)  # SQLite has one writer

_PAUSE = 0.5  # long enough for the other to be at the lock


@pytest.fixture
def who(world: Any) -> Principal:
    with world.database.writer() as session:
        user = accounts.ensure_user(session, "olga", Role.OPERATOR, world.now)
    return Principal(user.id, user.name, user.role)


def submit(session: Session, settings: Settings, world: Any, who: Principal, checkpoint: UUID) -> None:
    queue = JobQueue("memory://")
    to = Submission(session, settings, world.blobs, queue, who, world.now)
    submission.submit(to, JobKind.SAMPLE, {"checkpoint_id": str(checkpoint), "n": 2})


def delete(database: Database, who: Principal, checkpoint: UUID, world: Any) -> None:
    with database.writer() as session:
        bin.delete(session, who, checkpoint, world.now)


def must_wait(future: Future[None]) -> None:
    with pytest.raises(TimeoutError):
        future.result(timeout=_PAUSE)


def test_deleting_waits_for_a_submission_and_then_sees_its_job(settings: Settings, world: Any, who: Principal) -> None:
    checkpoint = world.checkpoint()
    with ThreadPoolExecutor(1) as pool:
        with world.database.writer() as session:
            submit(session, settings, world, who, checkpoint)
            deleting = pool.submit(delete, world.database, who, checkpoint, world)
            must_wait(deleting)
        with pytest.raises(ConflictError, match="needs it"):
            deleting.result(timeout=20)
    with world.database.reader() as session:
        assert session.get_one(Checkpoint, checkpoint).deleted_at is None
        assert len(session.scalars(select(Job)).all()) == 1


def test_a_submission_waits_for_a_deletion_and_then_finds_nothing(
    settings: Settings, world: Any, who: Principal
) -> None:
    checkpoint = world.checkpoint()

    def submitting() -> None:
        with world.database.writer() as session:
            submit(session, settings, world, who, checkpoint)

    with ThreadPoolExecutor(1) as pool:
        with world.database.writer() as session:
            bin.delete(session, who, checkpoint, world.now)
            submission = pool.submit(submitting)
            must_wait(submission)
        with pytest.raises(InvalidSpecError, match="not there"):
            submission.result(timeout=20)
    with world.database.reader() as session:
        assert session.scalars(select(Job)).all() == []
