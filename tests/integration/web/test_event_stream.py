"""The live log of a job, over a real server: replay, following, resuming, authorisation, bounds, shutdown."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn

from app.config import Settings
from app.db.queries import jobs as job_queries
from app.domain.enums import EventKind, JobStatus, Role
from app.main import create_app
from app.services import accounts

Headers = dict[str, str]
ON_SQLITE_ALONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests in which no SQL of interest runs."""


class Server:
    """The app under uvicorn, in a thread."""

    def __init__(self, settings: Settings, clock: Any) -> None:
        self.app = create_app(settings, clock=clock)
        self.streams = self.app.state.tastemaker.event_streams
        self.streams.poll_seconds = 0.02
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._uvicorn = uvicorn.Server(uvicorn.Config(self.app, log_level="error"))
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [self._listener]})

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self._uvicorn.started)

    def stop(self) -> None:
        """As the signal handler does in the main thread of a real server."""
        self.streams.closing = True
        self._uvicorn.should_exit = True
        self._thread.join(timeout=20)
        self._listener.close()
        assert not self._thread.is_alive(), "an open stream kept the server from stopping"


def wait_for(condition: Callable[[], Any], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def server(settings: Settings, clock: Any) -> Iterator[Server]:
    server = Server(settings, clock)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def log(world: Any) -> Callable[..., None]:
    def _log(job_id: UUID, *messages: str) -> None:
        with world.database.writer() as session:
            for message in messages:
                job_queries.append_event(session, job_id, EventKind.LOG, {"message": message}, world.now)

    return _log


def end(world: Any, job_id: UUID) -> None:
    with world.database.writer() as session:
        job_queries.finish(session, job_id, JobStatus.SUCCEEDED, world.now)


def follow(
    server: Server, job_id: UUID, headers: Headers, *, on_event: Callable[[Any], None] | None = None
) -> list[Any]:
    """Read the stream to its end. Returns its events as (id, event, data)."""
    events: list[Any] = []
    fields: dict[str, str] = {}
    url = f"{server.url}/api/v1/jobs/{job_id}/events"
    with httpx.stream("GET", url, headers={**headers, "Accept": "text/event-stream"}, timeout=20) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "data" in fields:
                events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                if on_event is not None:
                    on_event(events[-1])
            fields = {}
    return events


def test_a_stream_replays_the_log_follows_it_and_ends_with_the_job(
    server: Server, world: Any, operator: Headers, log: Callable[..., None]
) -> None:
    job_id = world.job(status=JobStatus.RUNNING)
    log(job_id, "one", "two\nlines")

    def go_on(event: Any) -> None:
        if event[0] == 2:  # the replay is over: what comes now was not there when the stream began
            log(job_id, "three")
        if event[0] == 3:
            end(world, job_id)

    events = follow(server, job_id, operator, on_event=go_on)
    assert [(id, kind) for id, kind, _ in events] == [(1, "log"), (2, "log"), (3, "log"), (4, "status")]
    assert events[1][2]["payload"] == {"message": "two\nlines"}
    assert events[3][2]["payload"] == {"status": "succeeded"}
    listed = httpx.get(f"{server.url}/api/v1/jobs/{job_id}/events", headers=operator).json()
    assert [data for _, _, data in events] == listed
    wait_for(lambda: server.streams.n_open == 0)


@ON_SQLITE_ALONE
def test_a_stream_resumes_after_the_last_event_that_arrived(
    server: Server, world: Any, operator: Headers, log: Callable[..., None]
) -> None:
    job_id = world.job(status=JobStatus.RUNNING)
    log(job_id, "one", "two", "three")
    end(world, job_id)
    assert [id for id, _, _ in follow(server, job_id, {**operator, "Last-Event-ID": "2"})] == [3, 4]
    url = f"{server.url}/api/v1/jobs/{job_id}/events"
    stream = {**operator, "Accept": "text/event-stream"}
    assert httpx.get(url, headers={**stream, "Last-Event-ID": "4"}).status_code == 204  # stops an EventSource
    assert httpx.get(url, headers={**stream, "Last-Event-ID": "x"}).status_code == 422


@ON_SQLITE_ALONE
def test_nobody_reads_a_stream_without_being_an_operator(server: Server, world: Any, sign_in: Any) -> None:
    url = f"{server.url}/api/v1/jobs/{world.job()}/events"
    stream = {"Accept": "text/event-stream"}
    assert httpx.get(url, headers=stream).status_code == 401
    assert httpx.get(url, headers={**stream, **sign_in(Role.RATER)}).status_code == 403


@pytest.mark.parametrize("by", ["revocation", "expiry of the session"])
@ON_SQLITE_ALONE
def test_an_open_stream_ends_when_its_reader_may_no_longer_read(
    server: Server, world: Any, sign_in: Any, clock: Any, log: Callable[..., None], by: str
) -> None:
    job_id = world.job(status=JobStatus.RUNNING)
    log(job_id, "one")
    headers = sign_in(Role.OPERATOR, "ada")
    if by != "revocation":
        with world.database.writer() as session:
            user = accounts.ensure_user(session, "ada", Role.OPERATOR, clock.now())
            secret = accounts.start_web_session(session, user.id, clock.now(), session_hours=1)
        headers = {"Cookie": f"tastemaker_session={secret}"}

    def shut_out(_event: Any) -> None:
        if by == "revocation":
            with world.database.writer() as session:
                accounts.revoke_token(session, headers["Authorization"].removeprefix("Bearer "), clock.now())
        else:
            clock.advance(hours=2)
        log(job_id, "secret")

    seen = [data["payload"]["message"] for _, _, data in follow(server, job_id, headers, on_event=shut_out)]
    assert seen == ["one"]


@ON_SQLITE_ALONE
def test_a_quiet_stream_shows_that_it_lives(server: Server, world: Any, operator: Headers) -> None:
    server.streams.heartbeat_seconds = 0.01
    url = f"{server.url}/api/v1/jobs/{world.job()}/events"
    with httpx.stream("GET", url, headers={**operator, "Accept": "text/event-stream"}, timeout=20) as answer:
        assert next(line for line in answer.iter_lines() if line.startswith(":"))


class TestBounds:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_event_streams": 2})

    @ON_SQLITE_ALONE
    def test_streams_are_bounded_and_a_closed_one_makes_room(
        self, server: Server, world: Any, operator: Headers, log: Callable[..., None]
    ) -> None:
        job_id = world.job(status=JobStatus.RUNNING)
        with ThreadPoolExecutor(2) as pool:
            open_streams = [pool.submit(follow, server, job_id, operator) for _ in range(2)]
            wait_for(lambda: server.streams.n_open == 2)
            url = f"{server.url}/api/v1/jobs/{job_id}/events"
            refused = httpx.get(url, headers={**operator, "Accept": "text/event-stream"})
            assert refused.status_code == 429
            assert httpx.get(url, headers=operator).status_code == 200  # the list still answers
            end(world, job_id)
            assert all(stream.result() for stream in open_streams)
        wait_for(lambda: server.streams.n_open == 0)


@ON_SQLITE_ALONE
def test_a_client_that_goes_away_frees_its_place(server: Server, world: Any, operator: Headers) -> None:
    url = f"{server.url}/api/v1/jobs/{world.job()}/events"
    with httpx.stream("GET", url, headers={**operator, "Accept": "text/event-stream"}, timeout=20) as answer:
        lines = answer.iter_lines()  # a generator that nobody holds would close the connection
        assert next(lines).startswith("retry:")
        assert server.streams.n_open == 1
    wait_for(lambda: server.streams.n_open == 0)


@ON_SQLITE_ALONE
def test_a_server_that_stops_ends_its_streams(settings: Settings, clock: Any, world: Any, operator: Headers) -> None:
    server = Server(settings, clock)
    server.start()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(follow, server, world.job(), operator)
        wait_for(lambda: server.streams.n_open == 1)
        server.stop()
        assert stream.result(timeout=20) == []
