"""Many open event streams on one real web process: how soon events arrive, what memory they take, and how soon all are
closed at shutdown. `python -m benchmarks.event_streams [--streams 100] [--events 20] [--out FILE]`."""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import httpx
import psutil

from app.adapters.clock import SystemClock
from app.db.migrate import migrate
from app.db.models import Job
from app.db.queries import jobs as queries
from app.db.session import Database
from app.domain.enums import EventKind, JobKind, JobStatus, Role
from app.services import accounts


async def measure(n_streams: int, n_events: int, *, pause: float = 0.5) -> dict[str, Any]:
    """Seconds from an event's commit to its arrival at every stream, growth of the server's memory in bytes, seconds
    from SIGTERM until the last stream was closed."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = os.environ | {
            "TASTEMAKER_MODE": "demo",
            "TASTEMAKER_DATA_DIR": folder,
            "TASTEMAKER_PORT": str(port),
            "TASTEMAKER_BROKER_URL": "redis://127.0.0.1:1/0",
        }
        database = Database(f"sqlite:///{folder}/tastemaker.sqlite3")
        migrate(database)
        job_id, token = _prepare(database)
        command = [sys.executable, "-m", "app.cli", "serve"]
        with Path(folder, "web.log").open("wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            return await _measure(
                server, f"http://127.0.0.1:{port}", database, job_id, token, n_streams, n_events, pause
            )
        finally:
            server.kill()
            server.wait()
            database.dispose()


async def _measure(
    server: "subprocess.Popen[bytes]",
    url: str,
    database: Database,
    job_id: UUID,
    token: str,
    n_streams: int,
    n_events: int,
    pause: float,
) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=n_streams + 5)
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=60) as client:
        await _answering(client)
        process = psutil.Process(server.pid)
        # one stream first: what is imported and made with the first request is no stream's memory
        warm = asyncio.create_task(_follow(client, job_id, 0, {}, asyncio.Event()))
        await asyncio.sleep(3)
        warm.cancel()
        before = process.memory_info().rss
        sent: dict[int, float] = {}
        delays: list[dict[int, float]] = [{} for _ in range(n_streams)]
        opened = [asyncio.Event() for _ in range(n_streams)]
        tasks = [
            asyncio.create_task(_follow(client, job_id, 0, found, is_open))
            for found, is_open in zip(delays, opened, strict=True)
        ]
        await asyncio.gather(*(is_open.wait() for is_open in opened))
        for number in range(n_events):
            with database.writer() as session:
                payload = {"message": f"event {number}"}
                seq = queries.append_event(session, job_id, EventKind.LOG, payload, datetime.now(UTC))
            sent[seq] = time.monotonic()
            await asyncio.sleep(pause)
        await asyncio.sleep(3)
        grown = process.memory_info().rss - before
        stopped = time.monotonic()
        server.send_signal(signal.SIGTERM)
        await asyncio.wait(tasks, timeout=30)
        closed = time.monotonic() - stopped
        for task in tasks:
            task.cancel()
    waits = sorted(found[seq] - moment for found in delays for seq, moment in sent.items() if seq in found)
    return {
        "streams": n_streams,
        "events": n_events,
        "delivered": len(waits),
        "expected": n_streams * n_events,
        "delay_seconds": {"p50": median(waits), "p99": waits[int(0.99 * len(waits))], "max": waits[-1]},
        "memory_growth_bytes": grown,
        "memory_before_bytes": before,
        "closed_after_seconds": closed,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }


async def _follow(
    client: httpx.AsyncClient, job_id: UUID, after: int, arrived: dict[int, float], is_open: asyncio.Event
) -> None:
    """Note when each event number arrives, until the server ends the stream."""
    async with client.stream("GET", f"/api/v1/jobs/{job_id}/events", params={"after": after}) as answer:
        answer.raise_for_status()
        try:
            async for line in answer.aiter_lines():
                is_open.set()
                if line.startswith("id: "):
                    arrived.setdefault(int(line[4:]), time.monotonic())
        except httpx.RemoteProtocolError:
            pass  # closed in the middle of a chunk: closed all the same


async def _answering(client: httpx.AsyncClient) -> None:
    for _ in range(600):
        try:
            if (await client.get("/healthz")).status_code == 200:
                return
        except httpx.TransportError:
            await asyncio.sleep(0.1)
    raise SystemExit("the web process did not start")


def _prepare(database: Database) -> tuple[UUID, str]:
    """A running job and an operator's token."""
    now = SystemClock().now()
    with database.writer() as session:
        user = accounts.ensure_user(session, "bench", Role.OPERATOR, now)
        _, token = accounts.create_token(session, user, name="bench", role=Role.OPERATOR, now=now)
        job = Job(
            kind=JobKind.FINETUNE, name="followed", spec={}, status=JobStatus.RUNNING, created_at=now, started_at=now,
            heartbeat_at=now + timedelta(hours=1),
        )  # fmt: skip
        session.add(job)
        session.flush()
        return job.id, token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--events", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = json.dumps(asyncio.run(measure(arguments.streams, arguments.events)), indent=2)
    print(result)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(result + "\n")


if __name__ == "__main__":
    main()
