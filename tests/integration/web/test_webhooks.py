"""Webhooks against a real receiver: signed, told once, tried again, never a way into the local network (threat 6)."""

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.adapters import outbound
from app.adapters.clock import Clock
from app.config import Settings
from app.db.models import Campaign, Job, WebhookDelivery
from app.db.queries import jobs as job_queries
from app.db.session import Database
from app.domain.enums import JobKind, JobStatus, Role, Strategy
from app.domain.errors import ForbiddenError, InvalidSpecError
from app.main import create_app
from app.services.webhooks import MAX_ATTEMPTS, deliver_next, retry_delay

SignIn = Callable[..., dict[str, str]]


@dataclass
class Receiver:
    """An HTTP server that keeps what it is sent and answers as told."""

    url: str = ""
    status: int = 204
    location: str | None = None
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.got.append((dict(self.headers), body))
            self.send_response(state.status)
            if state.location:
                self.send_header("Location", state.location)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lab(settings: Settings) -> Settings:
    """Settings of a lab whose receivers are inside."""
    return settings.model_copy(update={"webhook_allow_private": True})


@pytest.fixture
def lab_client(lab: Settings, clock: Clock) -> Iterator[TestClient]:
    # entered without the lifespan: the delivery thread would race the test for the messages
    app = create_app(lab, clock=clock)
    yield TestClient(app, raise_server_exceptions=False)
    app.state.tastemaker.database.dispose()


def _end_a_job(database: Database, now: datetime, *, status: JobStatus = JobStatus.FAILED) -> UUID:
    with database.writer() as session:
        job = Job(kind=JobKind.SAMPLE, name="draw", spec={}, created_at=now)
        session.add(job)
        session.flush()
        job_queries.finish(session, job.id, status, now, error="it broke")
    return job.id


def _deliveries(database: Database) -> list[WebhookDelivery]:
    with database.reader() as session:
        return list(session.scalars(select(WebhookDelivery)))


def test_an_ended_job_is_told_once_signed_and_noted(
    lab_client: TestClient, lab: Settings, database: Database, sign_in: SignIn, clock: Clock, receiver: Receiver
) -> None:
    admin = sign_in(Role.ADMIN)
    made = lab_client.post("/api/v1/webhooks", json={"url": receiver.url, "events": ["job.ended"]}, headers=admin)
    assert made.status_code == 201
    job_id = _end_a_job(database, clock.now())
    assert deliver_next(database, lab, clock) is True
    assert deliver_next(database, lab, clock) is False
    ((headers, body),) = receiver.got
    message = json.loads(body)
    assert message["event"] == headers["Tastemaker-Event"] == "job.ended"
    assert message["job"] == {
        "id": str(job_id),
        "kind": "sample",
        "name": "draw",
        "status": "failed",
        "error": "it broke",
        "attempts": 0,
    }
    parts = dict(part.split("=") for part in headers["Tastemaker-Signature"].split(","))
    signed = f"{parts['t']}.".encode() + body
    assert parts["v1"] == hmac.new(made.json()["secret"].encode(), signed, hashlib.sha256).hexdigest()
    assert int(parts["t"]) == int(clock.now().timestamp())
    told = lab_client.get(made.headers["location"], headers=admin).json()["items"]
    assert [(item["attempts"], item["last_status"], item["next_attempt_at"]) for item in told] == [(1, 204, None)]


def test_a_closed_campaign_is_told_once_and_a_rolled_back_end_never(
    lab_client: TestClient, lab: Settings, database: Database, sign_in: SignIn, clock: Clock, receiver: Receiver
) -> None:
    lab_client.post("/api/v1/webhooks", json={"url": receiver.url}, headers=sign_in(Role.ADMIN))
    with database.writer() as session:
        campaign = Campaign(name="which", question="?", strategy=Strategy.UNIFORM, created_at=clock.now())
        session.add(campaign)
    with database.new_session(write=True) as session:
        job = Job(kind=JobKind.SAMPLE, name="x", spec={}, created_at=clock.now())
        session.add(job)
        session.flush()
        job_queries.finish(session, job.id, JobStatus.SUCCEEDED, clock.now())
        session.rollback()
    operator = sign_in(Role.OPERATOR)
    for _ in range(2):
        assert lab_client.post(f"/api/v1/campaigns/{campaign.id}/close", headers=operator).status_code == 200
    while deliver_next(database, lab, clock):
        pass
    ((_, body),) = receiver.got
    assert json.loads(body)["campaign"] == {"id": str(campaign.id), "name": "which", "status": "closed"}


def test_a_receiver_that_fails_is_tried_again_later_and_given_up_after_a_day(
    lab_client: TestClient, lab: Settings, database: Database, sign_in: SignIn, clock: Any, receiver: Receiver
) -> None:
    lab_client.post("/api/v1/webhooks", json={"url": receiver.url}, headers=sign_in(Role.ADMIN))
    receiver.status = 500
    began = clock.now()
    _end_a_job(database, began)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert deliver_next(database, lab, clock)
        (row,) = _deliveries(database)
        assert (row.attempts, row.last_status, row.delivered_at) == (attempt, 500, None)
        if row.next_attempt_at is not None:
            assert row.next_attempt_at == clock.now() + retry_delay(attempt)
            assert not deliver_next(database, lab, clock)  # not before its time
            clock.advance(seconds=retry_delay(attempt).total_seconds())
    assert row.next_attempt_at is None
    assert timedelta(hours=12) < clock.now() - began < timedelta(hours=36)
    assert len({headers["Tastemaker-Delivery"] for headers, _ in receiver.got}) == 1


def test_a_redirect_is_not_followed(
    lab_client: TestClient, lab: Settings, database: Database, sign_in: SignIn, clock: Clock, receiver: Receiver
) -> None:
    lab_client.post("/api/v1/webhooks", json={"url": receiver.url}, headers=sign_in(Role.ADMIN))
    receiver.status, receiver.location = 307, receiver.url
    _end_a_job(database, clock.now())
    deliver_next(database, lab, clock)
    assert len(receiver.got) == 1
    assert _deliveries(database)[0].last_error == "answered 307"


def test_of_several_processes_one_sends_a_message(
    lab_client: TestClient, lab: Settings, database: Database, sign_in: SignIn, clock: Clock, receiver: Receiver
) -> None:
    lab_client.post("/api/v1/webhooks", json={"url": receiver.url}, headers=sign_in(Role.ADMIN))
    for _ in range(6):
        _end_a_job(database, clock.now())

    def drain() -> None:
        for _ in range(10):
            deliver_next(database, lab, clock)

    threads = [threading.Thread(target=drain) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while deliver_next(database, lab, clock):
        pass
    sent = [headers["Tastemaker-Delivery"] for headers, _ in receiver.got]
    assert len(sent) == len(set(sent)) == 6


LOCAL = [
    "http://127.0.0.1/x",
    "http://localhost/x",
    "http://[::1]/x",
    "http://10.1.2.3/x",
    "http://192.168.0.1/x",
    "http://172.16.0.1/x",
    "http://169.254.169.254/latest/meta-data",
    "http://[fe80::1]/x",
    "http://[fd00::1]/x",
    "http://0.0.0.0/x",
    "http://[::]/x",
    "http://[::ffff:127.0.0.1]/x",
    "http://[64:ff9b::7f00:1]/x",
    "http://[2002:7f00:1::]/x",
    "http://2130706433/x",
    "http://0x7f.1/x",
    "http://0177.0.0.1/x",
    "http://224.0.0.1/x",
    "http://100.64.0.1/x",
]
MALFORMED = [
    "file:///etc/passwd",
    "gopher://example.org/x",
    "http://user:password@example.org/",
    "http://example.org@127.0.0.1/",
    "http://127.0.0.1\\@example.org/",
    "http:///x",
    "http://example.org:99999/",
    "http://exam ple.org/",
    "http://example.org/\r\nX: y",
    "example.org",
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_local_addresses_are_refused_however_they_are_spelled(client: TestClient, sign_in: SignIn) -> None:
    admin = sign_in(Role.ADMIN)
    refused = {url: client.post("/api/v1/webhooks", json={"url": url}, headers=admin).status_code for url in LOCAL}
    assert {url: status for url, status in refused.items() if status != 403} == {}
    for url in MALFORMED:
        assert client.post("/api/v1/webhooks", json={"url": url}, headers=admin).status_code == 422, url
    assert client.get("/api/v1/webhooks", headers=admin).json()["items"] == []


def test_a_name_that_turns_local_after_registration_is_not_called(
    lab_client: TestClient, settings: Settings, database: Database, sign_in: SignIn, clock: Clock, receiver: Receiver
) -> None:
    """Registered while allowed; the deployment that sends does not allow it, as after a name was pointed elsewhere."""
    lab_client.post("/api/v1/webhooks", json={"url": receiver.url}, headers=sign_in(Role.ADMIN))
    _end_a_job(database, clock.now())
    assert deliver_next(database, settings, clock)
    assert receiver.got == []
    assert "private or local" in (_deliveries(database)[0].last_error or "")


def test_the_call_goes_to_the_address_that_was_judged(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    """DNS rebinding: the name is asked for once, and one private address among several refuses them all."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def answer(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "rebind.example":
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    target = outbound.parse_url(receiver.url.replace("127.0.0.1", "rebind.example"), field="url")
    addresses = ["93.184.215.14", "127.0.0.1"]
    with pytest.raises(ForbiddenError):
        outbound.resolve(target, allow_private=False)
    addresses = ["127.0.0.1"]
    pinned = outbound.resolve(target, allow_private=True)
    addresses = ["203.0.113.1"]  # where the name points by the time of the call
    assert outbound.post(target, pinned, b"{}", {}) == 204
    assert asked == ["rebind.example"] * 2
    assert receiver.got[0][0]["Host"].startswith("rebind.example:")


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses_are_public(address: str) -> None:
    assert outbound.is_public(address)


def test_a_port_beyond_the_last_is_refused() -> None:
    with pytest.raises(InvalidSpecError):
        outbound.parse_url("https://example.org:65536/", field="url")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_only_admins_see_webhooks_and_the_audit_log(client: TestClient, sign_in: SignIn) -> None:
    for role in (Role.RATER, Role.OPERATOR):
        headers = sign_in(role)
        assert client.get("/api/v1/webhooks", headers=headers).status_code == 403
        assert client.post("/api/v1/webhooks", json={"url": "https://8.8.8.8/"}, headers=headers).status_code == 403
        assert client.get("/api/v1/audit", headers=headers).status_code == 403


def test_what_was_done_stands_in_the_audit_log_with_who_did_it(
    client: TestClient, database: Database, sign_in: SignIn, clock: Any
) -> None:
    admin = sign_in(Role.ADMIN, "root")
    with database.writer() as session:
        job = Job(kind=JobKind.SAMPLE, name="draw", spec={}, created_at=clock.now())
        session.add(job)
    clock.advance(seconds=1)
    hook = client.post("/api/v1/webhooks", json={"url": "https://8.8.8.8/hook"}, headers=admin).json()
    clock.advance(seconds=1)
    assert client.post(f"/api/v1/jobs/{job.id}/cancel", headers=admin).status_code == 200
    assert client.post(f"/api/v1/jobs/{job.id}/cancel", headers=admin).status_code == 409  # a refusal leaves no entry
    clock.advance(seconds=1)
    assert client.delete(f"/api/v1/webhooks/{hook['id']}", headers=admin).status_code == 204
    first = client.get("/api/v1/audit?limit=2", headers=admin).json()
    second = client.get(f"/api/v1/audit?limit=2&cursor={first['next_cursor']}", headers=admin).json()
    entries = first["items"] + second["items"]
    assert [(entry["action"], entry["target"], entry["user_name"]) for entry in entries] == [
        ("webhook.delete", hook["id"], "root"),
        ("job.cancel", str(job.id), "root"),
        ("webhook.create", hook["id"], "root"),
    ]
    assert hook["secret"] not in json.dumps(entries)
    assert datetime.fromisoformat(entries[0]["created_at"]).tzinfo == UTC
