"""A finetune job whose child shares the work with another rank, over gloo: real processes, real database."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select

from app.adapters.checkpoint_store import materialise
from app.config import Settings
from app.db.models import Checkpoint, Job
from app.db.queries import jobs as queries
from app.db.queries.jobs import Claim
from app.domain.enums import JobKind, JobStatus
from app.domain.errors import JobError
from tests.integration.worker.conftest import add_base
from worker.jobs.child import run_attempt
from worker.jobs.ranks import Seat, devices_of, seated
from worker.jobs.runtime import Runtime, open_runtime
from worker.ml.policy import load_policy


def open_with(ranks: int, database_url: str, data_dir: Path) -> Runtime:
    settings = Settings(
        mode="demo",
        data_dir=data_dir,
        database_url=database_url,  # type: ignore[arg-type]
        device="cpu",
        worker_concurrency=64,
        finetune_ranks=ranks,
    )
    return open_runtime(settings)


def finetuned(runtime: Runtime, base: Checkpoint) -> tuple[Job, dict[str, torch.Tensor]]:
    """The job as it ended, and the weights of its result."""
    spec: dict[str, Any] = {
        "checkpoint_id": str(base.id),
        "reward": [{"name": "brightness"}, {"name": "colourfulness"}],
        "epochs": 2,
        "samples_per_epoch": 5,
        "steps": 4,
        "lr": {"peak": 1e-3},
        "adam_eps": 1e-3,
        "eval": {"every": 2, "n": 3},
    }
    with runtime.database.writer() as session:
        job = Job(kind=JobKind.FINETUNE, name="test", spec=spec, created_at=datetime.now(UTC))
        session.add(job)
    with runtime.database.writer() as session:
        claim = queries.claim(session, job.id, worker="test", now=datetime.now(UTC))
    assert claim is not None
    run_attempt(runtime, claim)
    with runtime.database.reader() as session:
        ended = session.get_one(Job, job.id)
        rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job.id)).all()
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert [row.epoch for row in rows] == [2]
    folder = materialise(runtime.blobs, rows[0].manifest_sha256, runtime.settings.cache_dir)
    return ended, load_policy(folder).unet.state_dict()


def test_a_job_on_two_ranks_ends_where_a_job_on_one_ends(
    sqlite_database_url: str, tiny_model: Path, tmp_path: Path
) -> None:
    one = open_with(1, sqlite_database_url, tmp_path / "data")
    two = open_with(2, sqlite_database_url, tmp_path / "data")
    base = add_base(one, tiny_model)
    (_, expected), (_, found) = finetuned(one, base), finetuned(two, base)
    start = load_policy(tiny_model).unet.state_dict()
    assert max(float((expected[name] - start[name]).abs().max()) for name in start) > 1e-4
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-5, msg=name)


def rank_that_fails(settings: Settings, claim: Claim, seat: Seat) -> None:
    with seated(settings, claim, seat):
        seat.join()
        raise JobError("The reward 'mine' is NaN.")


def test_a_rank_that_fails_fails_the_job_with_its_reason(
    sqlite_database_url: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.jobs.finetune.run_rank", rank_that_fails)
    monkeypatch.setattr("worker.jobs.finetune.__name__", __name__)
    runtime = open_with(2, sqlite_database_url, tmp_path / "data")
    with pytest.raises(AssertionError, match=r"Rank 1 of 2 \(on cpu\) failed: The reward 'mine' is NaN."):
        finetuned(runtime, add_base(runtime, tiny_model))


def test_without_a_gpu_one_rank_is_the_default() -> None:
    assert devices_of(Settings(mode="demo"), "cpu") == ("cpu",)
    assert devices_of(Settings(mode="demo", finetune_ranks=3), "cpu") == ("cpu",) * 3
    assert devices_of(Settings(mode="demo", finetune_ranks=3), "cuda:1") == ("cuda:1",)
