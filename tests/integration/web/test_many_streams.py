"""Many event streams on one real web process, the short version of `benchmarks/event_streams.py`; and long logs."""

import asyncio
import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert

from app.db.models import Job, JobEvent
from app.domain.enums import EventKind, JobKind, JobStatus
from benchmarks.event_streams import measure

N_EPOCHS = 10_000


def test_open_streams_get_events_soon_and_end_with_the_process() -> None:
    with ThreadPoolExecutor(1) as pool:  # a browser test before this one leaves its event loop on the main thread
        found = pool.submit(asyncio.run, measure(40, 4)).result()
    assert found["delivered"] == found["expected"] == 160
    assert found["delay_seconds"]["max"] < 2.0
    assert found["memory_growth_bytes"] < 30_000_000
    assert found["closed_after_seconds"] < 5.0


@pytest.fixture
def long_job(world: Any) -> Any:
    """A finetune with ten thousand epochs behind it, each with metrics, progress and a line of log."""
    base = world.checkpoint()
    spec = {
        "checkpoint_id": str(base), "reward": [{"name": "brightness"}], "epochs": N_EPOCHS,
        "eval": {"every": 1, "n": 16, "seed": 650},
    }  # fmt: skip
    job_id = world.job(JobKind.FINETUNE, JobStatus.RUNNING, spec=spec)
    rows = []
    for epoch in range(1, N_EPOCHS + 1):
        metrics = {
            "epoch": epoch, "reward_mean": epoch / N_EPOCHS, "reward_quantiles": [0.1, 0.2, 0.3, 0.4, 0.5],
            "eval_reward_mean": 0.5, "kl_nats": 1.0, "clip_fraction": 0.1, "grad_norm": 1.0, "lr": 1e-4,
            "clip_fraction_t": [0.1] * 12, "log_ratio_t": [0.0] * 12, "grad_norm_t": [1.0] * 12,
            "timesteps": list(range(12)), "diversity": 10.0,
        }  # fmt: skip
        for kind, payload in (
            (EventKind.METRICS, metrics),
            (EventKind.PROGRESS, {"progress": epoch / N_EPOCHS, "stage": "Epoch", "eta_seconds": 1.0}),
            (EventKind.LOG, {"message": f"epoch {epoch}: all is well"}),
        ):
            rows.append(
                {"job_id": job_id, "seq": len(rows) + 1, "kind": kind, "payload": payload, "created_at": world.now}
            )
    with world.database.writer() as session:
        session.execute(insert(JobEvent), rows)
        session.get_one(Job, job_id).last_event_seq = len(rows)
    return job_id


def test_a_job_with_ten_thousand_epochs_opens_soon_and_is_small(
    client: TestClient, long_job: Any, operator: dict[str, str]
) -> None:
    client.get("/jobs", headers=operator)  # templates are compiled once
    started = time.perf_counter()
    page = client.get(f"/jobs/{long_job}", headers=operator)
    opened = time.perf_counter()
    curves = client.get(f"/api/v1/jobs/{long_job}/metrics?points=400", headers=operator)
    drawn = time.perf_counter()
    assert page.status_code == curves.status_code == 200
    assert len(gzip.compress(page.content)) < 60_000
    columns = curves.json()
    assert len(columns["epoch"]) == 400
    assert columns["epoch"][-1] == N_EPOCHS
    assert len(gzip.compress(curves.content)) < 60_000
    print(f"page {opened - started:.3f} s, curves {drawn - opened:.3f} s")  # noqa: T201
    assert drawn - started < 8.0  # under a second on an idle machine; reading all that is there takes minutes
