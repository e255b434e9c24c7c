"""Floods: too many requests, guessed passwords, bodies and ranges beyond measure (threats 12, 17, 18)."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.adapters.clock import Clock
from app.cli.valkey import valkey_program, wait_for_valkey
from app.config import Settings
from app.domain.enums import Role
from app.main import create_app
from app.services.rate_limits import Limit, RateLimiter

SignIn = Callable[..., dict[str, str]]


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    """None of this is SQL's affair."""
    return sqlite_database_url


@pytest.fixture
def limited(settings: Settings, clock: Clock) -> Iterator[TestClient]:
    """A web app with limits that are small enough to reach: 10 calls at once for a token, 20 for an address."""
    small = {"requests_per_second_per_token": 1, "requests_per_second_per_address": 2, "failed_logins_per_minute": 3}
    with TestClient(
        create_app(settings.model_copy(update=small), clock=clock), raise_server_exceptions=False
    ) as client:
        yield client


def test_a_token_that_floods_is_refused_and_told_when_to_come_back(limited: TestClient, sign_in: SignIn) -> None:
    ada, bob = sign_in(Role.OPERATOR, "ada"), sign_in(Role.OPERATOR, "bob")
    answers = [limited.get("/api/v1/jobs", headers=ada) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    refused = answers[-1]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:tastemaker:problem:rate-limited"
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert limited.get("/api/v1/jobs", headers=bob).status_code == 200


def test_an_address_that_tries_many_tokens_is_refused_and_health_is_not(limited: TestClient) -> None:
    statuses = [
        limited.get("/api/v1/jobs", headers={"Authorization": f"Bearer tm_guess{n}"}).status_code for n in range(21)
    ]
    assert statuses == [401] * 20 + [429]
    assert limited.get("/healthz").status_code == 200


def test_guessing_passwords_and_links_ends_soon_and_the_page_stays(limited: TestClient) -> None:
    form = {"name": "ada", "password": "wrong horse battery"}
    origin = {"Origin": "http://testserver", "Accept": "text/html"}
    attempts = [
        limited.post("/login", data=form, headers=origin),
        limited.get("/login?token=guess", headers=origin),
        limited.post("/login", data=form, headers=origin),
        limited.post("/login", data=form, headers=origin),
    ]
    assert [answer.status_code for answer in attempts] == [401, 401, 401, 429]
    assert attempts[-1].headers["content-type"].startswith("text/html")
    assert limited.get("/login", headers=origin).status_code == 200


def test_limits_are_shared_by_processes_and_counted_locally_while_the_broker_is_away(clock: Clock) -> None:
    folder = Path(tempfile.mkdtemp(prefix="tm-"))  # a Unix socket's path must be short
    program = valkey_program(folder / "v.sock", folder, folder / "log")
    limit = {"token:x": Limit(rate=0.001, burst=3)}

    async def use() -> tuple[list[bool], list[bool]]:
        first, second = (RateLimiter(f"redis+socket://{folder / 'v.sock'}", clock) for _ in range(2))
        shared = [await limiter.take(limit) > 0 for limiter in (first, second, first, second)]
        await first.take(limit, cost=-1)
        shared.append(await second.take(limit) > 0)
        server.terminate()
        server.wait(20)
        local = [await first.take(limit) > 0 for _ in range(4)]
        for limiter in (first, second):
            await limiter.close()
        return shared, local

    with program.log.open("wb") as log:
        server = subprocess.Popen(program.command, stdout=log, stderr=log)
    try:
        wait_for_valkey(folder / "v.sock")
        with ThreadPoolExecutor(1) as pool:  # a browser test before this one leaves its event loop on the main thread
            shared, local = pool.submit(asyncio.run, use()).result()
    finally:
        server.kill()
        server.wait(20)
        shutil.rmtree(folder)
    assert shared == [False, False, False, True, False]
    assert local == [False, False, False, True]


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/checkpoints", "/login"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_413_whether_declared_or_streamed(
    settings: Settings, sign_in: SignIn, path: str, declared: bool
) -> None:
    small = settings.model_copy(update={"max_upload_bytes": 10_000})
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(50):
            sent += 1000
            yield b"x" * 1000

    form = path == "/login"
    headers = {"Content-Type": "application/x-www-form-urlencoded" if form else "application/json"}
    headers |= {"Origin": "http://testserver"} if form else sign_in(Role.ADMIN)
    with TestClient(create_app(small), raise_server_exceptions=False) as client:
        answer = client.post(path, content=b"x" * 50_000 if declared else pieces(), headers=headers)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_form_of_many_fields_or_files_is_refused(client: TestClient) -> None:
    origin = {"Origin": "http://testserver"}
    fields = {f"f{n}": "x" for n in range(1500)}
    files = [("file", (f"{n}.txt", b"x")) for n in range(3)]
    assert client.post("/login", files={**{k: (None, v) for k, v in fields.items()}}, headers=origin).status_code == 400
    assert client.post("/login", files=files, headers=origin).status_code == 400


def test_ranges_are_ignored_on_generated_answers_and_bounded_on_files(client: TestClient) -> None:
    many = {"Range": "bytes=" + ",".join(f"{n}-" for n in range(5000))}
    assert client.get("/healthz", headers=many).status_code == 200
    page = client.get("/login", headers={"Accept": "text/html"})
    script = next(part for part in page.text.split('"') if part.startswith("/static/"))
    whole = client.get(script)
    assert whole.status_code == 200
    flooded = client.get(script, headers=many)
    assert flooded.status_code in (200, 206, 416)
    assert len(flooded.content) <= 2 * len(whole.content) + 1000
