"""Logs, request ids and metrics, as a monitor and an incident's reader meet them."""

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.config import Settings
from app.db.models import Job
from app.db.queries import jobs as job_queries
from app.db.session import Database
from app.domain.enums import EventKind, JobKind, JobStatus, Role
from app.logs import JsonFormatter, working_for_job
from app.main import create_app

SignIn = Callable[..., dict[str, str]]


def _values(text: str, name: str) -> dict[frozenset[tuple[str, str]], float]:
    return {
        frozenset(sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def _one(text: str, name: str, **labels: str) -> float:
    (value,) = [v for k, v in _values(text, name).items() if frozenset(labels.items()) <= k]
    return value


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, object]]]:
    """What the process logged so far, as the JSON objects that it would print."""
    caplog.set_level(logging.INFO)
    formatter = JsonFormatter()
    return lambda: [json.loads(formatter.format(record)) for record in caplog.records]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestLogs:
    def test_a_request_id_comes_back_and_stands_in_the_log(
        self, client: TestClient, lines: Callable[[], list[dict[str, object]]]
    ) -> None:
        answer = client.get(
            "/api/v1/jobs/5f0c6c1e-0000-4000-8000-000000000000", headers={"X-Request-Id": "trace-7.a_B"}
        )
        assert answer.headers["X-Request-Id"] == "trace-7.a_B"
        (line,) = [line for line in lines() if line["logger"] == "tastemaker.access"]
        assert line["route"] == "/api/v1/jobs/{job_id}"
        assert (line["method"], line["status"]) == ("GET", 401)

    @pytest.mark.parametrize("bad", ["", "a b", 'x"\n', "x" * 65, "é"])
    def test_an_id_that_could_forge_a_log_line_is_replaced(self, client: TestClient, bad: str) -> None:
        answer = client.get("/healthz", headers={b"X-Request-Id": bad.encode()})
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])

    def test_no_token_password_or_sign_in_link_reaches_the_log(
        self, client: TestClient, sign_in: SignIn, lines: Callable[[], list[dict[str, object]]]
    ) -> None:
        headers = sign_in(Role.ADMIN)
        secret = headers["Authorization"].removeprefix("Bearer ")
        client.get("/api/v1/users", headers=headers)
        client.get("/login?token=very-secret-link-token")
        client.post(
            "/login",
            data={"name": "ada", "password": "correct horse battery"},
            headers={"Origin": "http://testserver"},
        )
        client.post("/api/v1/jobs", json={"kind": secret}, headers=headers)
        logging.getLogger("app").warning("a careless line with %s and postgresql://u:hunter2@db/x", secret)
        text = json.dumps(lines())
        assert len(lines()) >= 5
        for hidden in (secret, "very-secret-link-token", "correct horse battery", "hunter2"):
            assert hidden not in text


def test_a_job_id_stands_in_every_line_of_its_work() -> None:
    formatted: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            formatted.append(JsonFormatter().format(record))

    logger = logging.getLogger("worker.test")
    handler = Keep()
    logger.addHandler(handler)
    try:
        with working_for_job("job-1"):
            logger.warning("inside")
        logger.warning("outside")
    finally:
        logger.removeHandler(handler)
    inside, outside = (json.loads(line) for line in formatted)
    assert inside["job_id"] == "job-1"
    assert "job_id" not in outside


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestMetricsGuard:
    @pytest.mark.parametrize(("role", "status"), [(None, 401), (Role.RATER, 403), (Role.OPERATOR, 200)])
    def test_only_operators_read_metrics(
        self, client: TestClient, sign_in: SignIn, role: Role | None, status: int
    ) -> None:
        assert client.get("/metrics", headers=sign_in(role) if role else {}).status_code == status

    def test_loopback_may_be_let_in_without_a_token_but_not_what_a_proxy_passes_on(self, settings: Settings) -> None:
        open_settings = settings.model_copy(update={"metrics_on_loopback": True})
        app = create_app(open_settings)
        with TestClient(app, client=("127.0.0.1", 4000)) as here, TestClient(app, client=("10.0.0.5", 4000)) as there:
            assert here.get("/metrics").status_code == 200
            assert here.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 401
            assert there.get("/metrics").status_code == 401
        with TestClient(create_app(settings), client=("127.0.0.1", 4000)) as closed:
            assert closed.get("/metrics").status_code == 401


def test_jobs_are_counted_and_timed_by_the_database(
    client: TestClient, sign_in: SignIn, database: Database, clock: object
) -> None:
    now = clock.now()  # type: ignore[attr-defined]
    with database.writer() as session:
        for seconds in (0.5, 45.0, 4000.0):
            session.add(
                Job(
                    kind=JobKind.SAMPLE,
                    name="x",
                    spec={},
                    status=JobStatus.SUCCEEDED,
                    created_at=now,
                    started_at=now,
                    finished_at=now + timedelta(seconds=seconds),
                )
            )
        session.add(Job(kind=JobKind.FINETUNE, name="x", spec={}, created_at=now - timedelta(seconds=90)))
        running = Job(
            kind=JobKind.EVALUATE, name="x", spec={}, status=JobStatus.RUNNING, created_at=now, worker="gpu1:7",
            heartbeat_at=now - timedelta(seconds=3),
        )  # fmt: skip
        session.add(running)
        session.flush()
        for percent in (20.0, 97.0):
            usage = {"cpu_percent": 180.0, "memory_bytes": 2_000_000_000, "gpu_percent": percent}
            job_queries.append_event(session, running.id, EventKind.WORKER, usage, now)
    text = client.get("/metrics", headers=sign_in(Role.OPERATOR)).text
    assert _one(text, "tastemaker_jobs", kind="sample", status="succeeded") == 3
    assert _one(text, "tastemaker_jobs", kind="finetune", status="queued") == 1
    assert _one(text, "tastemaker_jobs", kind="finetune", status="failed") == 0
    assert _one(text, "tastemaker_oldest_queued_job_seconds") == 90
    assert _one(text, "tastemaker_heartbeat_age_seconds", worker="gpu1:7") == 3
    assert _one(text, "tastemaker_broker_up") == 0  # the tests' broker is away
    assert _one(text, "tastemaker_worker_gpu_percent", worker="gpu1:7") == 97
    assert _one(text, "tastemaker_worker_memory_bytes", worker="gpu1:7") == 2_000_000_000
    assert _values(text, "tastemaker_worker_gpu_memory_bytes") == {}
    assert _one(text, "tastemaker_workers", queue="gpu") == 0
    assert _one(text, "tastemaker_queued_jobs", queue="cpu") == 0
    buckets = _values(text, "tastemaker_job_seconds_bucket")
    counts = {dict(labels)["le"]: n for labels, n in buckets.items() if ("kind", "sample") in labels}
    assert [counts[bound] for bound in ("1.0", "30.0", "60.0", "3600.0", "7200.0", "+Inf")] == [1, 1, 2, 2, 3, 3]
    assert _one(text, "tastemaker_job_seconds_sum", kind="sample") == pytest.approx(4045.5, abs=0.01)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_requests_are_counted_by_route_and_made_up_paths_make_no_new_series(
    client: TestClient, sign_in: SignIn
) -> None:
    headers = sign_in(Role.OPERATOR)
    for n in range(5):
        client.get(f"/api/v1/jobs/5f0c6c1e-0000-4000-8000-00000000000{n}", headers=headers)
        client.get(f"/no/such/path/{n}")
        client.request(f"MADE{n}", "/no/such/path")
    text = client.get("/metrics", headers=headers).text
    series = _values(text, "tastemaker_http_request_seconds_count")
    route = {"method": "GET", "route": "/api/v1/jobs/{job_id}", "status": "404"}
    assert series[frozenset(route.items())] == 5
    assert [n for labels, n in series.items() if ("route", "unmatched") in labels] == [10]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_several_web_processes_count_as_one(sqlite_template: Path, tmp_path: Path) -> None:
    data_dir, port = tmp_path / "data", _free_port()
    data_dir.mkdir()
    shutil.copy(sqlite_template, data_dir / "tastemaker.sqlite3")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TASTEMAKER_", "PROMETHEUS_"))}
    environment = kept | {
        "TASTEMAKER_MODE": "demo",
        "TASTEMAKER_DATA_DIR": str(data_dir),
        "TASTEMAKER_PORT": str(port),
        "TASTEMAKER_METRICS_ON_LOOPBACK": "true",
    }
    command = [sys.executable, "-m", "app.cli", "serve", "--workers", "2"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url, answered = f"http://127.0.0.1:{port}", 0
        deadline = time.monotonic() + 60
        pids: set[str] = set()
        while len(pids) < 2:  # until both processes have counted something
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            try:  # a new connection each time, so that either process may answer
                answered += httpx.get(f"{url}/healthz", timeout=5).status_code == 200
            except httpx.TransportError:
                continue
            pids = {path.stem for path in (data_dir / "cache" / "metrics").glob("histogram_*.db")}
        text = httpx.get(f"{url}/metrics", timeout=10).text
        assert _one(text, "tastemaker_http_request_seconds_count", route="/healthz") == answered
        assert _one(text, "tastemaker_jobs", kind="sample", status="queued") == 0
    finally:
        process.terminate()
        process.wait(30)
    log_lines = (tmp_path / "log").read_text().splitlines()
    assert log_lines
    assert all("logger" in json.loads(line) for line in log_lines)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_dashboard_asks_only_for_metrics_that_exist(client: TestClient, sign_in: SignIn) -> None:
    dashboard = json.loads((Path(__file__).parents[3] / "docs" / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for text in expressions for name in re.findall(r"\b(?:tastemaker|process)_[a-z_]+", text)}
    text = client.get("/metrics", headers=sign_in(Role.OPERATOR)).text
    known = {name.removesuffix("_total") for name in re.findall(r"^# TYPE (\S+)", text, re.M)}
    assert len(asked) >= 10
    assert {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in asked} - known == set()
