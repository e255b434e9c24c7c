"""`Idempotency-Key`: a POST sent twice acts once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import func, select

from app.config import Settings
from app.db.models import AuditEntry
from app.db.session import Database
from app.domain.errors import ConflictError
from app.main import create_app
from app.web.deps import CurrentPrincipal, Now, WriteSession
from app.web.idempotency import ApiRoute

Headers = dict[str, str]
SignIn = Callable[..., Headers]
ACTION = "test.noted"


class Note(BaseModel):
    text: str


@pytest.fixture
def client(settings: Settings, clock: Any) -> Iterator[TestClient]:
    """The real app with one more call, which writes a row that can be counted."""
    router = APIRouter(route_class=ApiRoute)

    @router.post("/api/v1/test-notes", status_code=201)
    def add_note(body: Note, session: WriteSession, caller: CurrentPrincipal, now: Now) -> dict[str, str]:
        row = AuditEntry(user_id=caller.user_id, action=ACTION, target=body.text, detail={}, created_at=now)
        session.add(row)
        session.flush()
        if body.text == "refused":
            raise ConflictError("Refused after writing.")
        return {"id": str(row.id)}

    app = create_app(settings, clock=clock)
    app.include_router(router)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, headers: Headers, text: str, key: str | None = "key-1") -> Any:
    extra = {} if key is None else {"Idempotency-Key": key}
    return client.post("/api/v1/test-notes", json={"text": text}, headers={**headers, **extra})


def n_notes(database: Database) -> int:
    with database.reader() as session:
        return session.scalar(select(func.count()).select_from(AuditEntry).where(AuditEntry.action == ACTION)) or 0


def test_the_same_call_twice_acts_once_and_gets_the_same_answer(
    client: TestClient, sign_in: SignIn, database: Database
) -> None:
    headers = sign_in()
    first, second = post(client, headers, "one"), post(client, headers, "one")
    assert (first.status_code, first.content) == (second.status_code, second.content) == (201, first.content)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert n_notes(database) == 1


def test_without_a_key_every_call_acts(client: TestClient, sign_in: SignIn, database: Database) -> None:
    headers = sign_in()
    answers = [post(client, headers, "one", key=None) for _ in range(2)]
    assert UUID(answers[0].json()["id"]) != UUID(answers[1].json()["id"])
    assert n_notes(database) == 2


def test_the_same_key_for_another_body_is_a_conflict(client: TestClient, sign_in: SignIn, database: Database) -> None:
    headers = sign_in()
    post(client, headers, "one")
    assert post(client, headers, "two").status_code == 409
    assert n_notes(database) == 1


def test_keys_of_different_people_do_not_meet(client: TestClient, sign_in: SignIn, database: Database) -> None:
    answers = [post(client, sign_in(), "one") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert n_notes(database) == 2


def test_a_refused_call_leaves_no_trace_and_may_be_sent_again(
    client: TestClient, sign_in: SignIn, database: Database
) -> None:
    headers = sign_in()
    assert post(client, headers, "refused").status_code == 409
    assert n_notes(database) == 0
    assert post(client, headers, "fine").status_code == 201


def test_a_key_is_forgotten_after_a_day(client: TestClient, sign_in: SignIn, database: Database, clock: Any) -> None:
    headers = sign_in()
    post(client, headers, "one")
    clock.advance(hours=25)
    assert post(client, headers, "one").status_code == 201
    assert n_notes(database) == 2


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb"])
def test_a_malformed_key_is_refused_by_name(client: TestClient, sign_in: SignIn, key: str) -> None:
    answer = post(client, sign_in(), "one", key=key)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


def test_concurrent_duplicates_act_once(client: TestClient, sign_in: SignIn, database: Database) -> None:
    headers = sign_in()
    start = Barrier(8)

    def send(_n: int) -> Any:
        start.wait()
        return post(client, headers, "one")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert n_notes(database) == 1


def test_more_writers_than_threads_all_get_through(client: TestClient, sign_in: SignIn, database: Database) -> None:
    """Forty server threads must not all wait for SQLite's one write lock while its holder needs one of them."""
    headers = sign_in()
    start = Barrier(60)

    def send(number: int) -> int:
        start.wait()
        return int(post(client, headers, f"note {number}", key=None).status_code)

    with ThreadPoolExecutor(60) as pool:
        assert set(pool.map(send, range(60))) == {201}
    assert n_notes(database) == 60
