"""`run_after_commit`: what is told to the outside is true by then."""

import pytest
from sqlalchemy import text

from app.db.session import Database, run_after_commit


def test_callbacks_run_once_after_the_commit(database: Database) -> None:
    calls: list[str] = []
    with database.writer() as session:
        run_after_commit(session, lambda: calls.append("sent"))
        session.execute(text("SELECT 1"))
        assert calls == []
    assert calls == ["sent"]


def test_a_rollback_sends_nothing(database: Database) -> None:
    calls: list[str] = []

    def fail_after_asking() -> None:
        with database.writer() as session:
            run_after_commit(session, lambda: calls.append("sent"))
            session.execute(text("SELECT 1"))
            raise RuntimeError("changed its mind")

    with pytest.raises(RuntimeError):
        fail_after_asking()
    assert calls == []


def test_a_released_savepoint_is_no_commit(database: Database) -> None:
    calls: list[str] = []
    with database.writer() as session:
        run_after_commit(session, lambda: calls.append("sent"))
        with session.begin_nested():
            session.execute(text("SELECT 1"))
        assert calls == []
    assert calls == ["sent"]
