"""A job that ends in its middle shows nothing as whole: a reward of others that raises or gives NaN, and a cancel."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.config import Settings
from app.db.models import Checkpoint, Job, Measurement, Sample, SampleReward
from app.db.queries import jobs as queries
from app.domain.enums import JobKind, JobStatus
from tests.integration.worker.conftest import add_base
from worker.jobs import monitor
from worker.jobs.child import run_attempt
from worker.jobs.runtime import Runtime, open_runtime
from worker.ml.rewards import registry

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

_PLUGIN = """
import numpy as np
from worker.ml.rewards.base import RewardInfo, RewardPlugin

on_call = []  # what happens from the second call on

def describe(host):
    return RewardInfo(name="tripwire", title="Tripwire", description="", unit="", direction="", range=(None, None),
                      needs="")

def build(host):
    calls = []
    def reward(images):
        calls.append(1)
        values = np.full(len(images), 0.5)
        return on_call[0](values) if len(calls) > 1 else values
    return reward

plugin = RewardPlugin(name="tripwire", describe=describe, build=build)
"""


def raises(_values: Any) -> Any:
    raise RuntimeError("the wire was touched")


def gives_nan(values: Any) -> Any:
    values[-1] = float("nan")
    return values


@pytest.fixture
def tripwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[Any], Any]]]:
    """A third party's reward, installed as one would be; what it does when it is called again."""
    site = tmp_path / "site"
    (site / "tripwire-1.dist-info").mkdir(parents=True)
    (site / "tripwire-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tripwire\nVersion: 1\n")
    (site / "tripwire-1.dist-info" / "entry_points.txt").write_text(
        f"[{registry.ENTRY_POINT_GROUP}]\ntripwire = tripwire:plugin\n"
    )
    (site / "tripwire.py").write_text(_PLUGIN)
    monkeypatch.syspath_prepend(site)
    registry._plugins.cache_clear()
    import tripwire  # type: ignore[import-not-found]

    yield tripwire.on_call
    registry._plugins.cache_clear()
    del sys.modules["tripwire"]


@pytest.fixture
def runtime(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setattr(monitor, "_WRITE_SECONDS", 0.0)  # a cancel is seen at the next look, not at the next second
    return open_runtime(settings.model_copy(update={"device": "cpu", "worker_concurrency": 64}))


@pytest.fixture
def pair(runtime: Runtime, tiny_model: Path) -> list[Checkpoint]:
    return [add_base(runtime, tiny_model), add_base(runtime, tiny_model)]


def run(runtime: Runtime, kind: JobKind, spec: dict[str, Any], on_call: list[Callable[[Any], Any]], how: str) -> Job:
    """Run a job in which the reward's second call goes wrong; the row as it ended."""
    with runtime.database.writer() as session:
        job = Job(kind=kind, name="interrupted", spec=spec, created_at=datetime.now(UTC))
        session.add(job)

    def cancels(values: Any) -> Any:
        with runtime.database.writer() as session:
            session.get_one(Job, job.id).cancel_requested = True
        return values

    on_call[:] = [{"raises": raises, "nan": gives_nan, "cancel": cancels}[how]]
    with runtime.database.writer() as session:
        claim = queries.claim(session, job.id, worker="test", now=datetime.now(UTC))
    assert claim is not None
    run_attempt(runtime, claim)
    with runtime.database.reader() as session:
        return session.get_one(Job, job.id)


_SENTENCES = {"raises": "the wire was touched", "nan": "NaN or infinite for 1 of"}


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_an_analysis_that_fails_midway_has_a_reason_and_nothing_else(
    runtime: Runtime, pair: list[Checkpoint], tripwire: list[Callable[[Any], Any]], how: str, client: TestClient,
    sign_in: Callable[..., dict[str, str]],
) -> None:  # fmt: skip
    spec = {
        "kind": "reward_trajectory", "checkpoint_ids": [str(row.id) for row in pair], "n": 4, "steps": 3, "states": 2,
        "eta": 1.0, "seed": 3, "rewards": [{"name": "tripwire"}],
    }  # fmt: skip
    job = run(runtime, JobKind.ANALYZE, spec, tripwire, how)
    assert job.status is JobStatus.FAILED
    headers = sign_in()
    shown = client.get(f"/api/v1/analyses/{job.id}", headers=headers).json()
    assert (shown["status"], shown["document"], shown["sha256"]) == ("failed", None, None)
    assert "'tripwire'" in shown["error"]
    assert _SENTENCES[how] in shown["error"]
    listed = client.get("/api/v1/analyses", params={"status": "succeeded"}, headers=headers).json()
    assert listed["items"] == []
    page = client.get(f"/analysis/{job.id}", headers=headers | {"accept": "text/html"})
    assert page.status_code == 200
    assert _SENTENCES[how] in page.text
    assert "Numbers as JSON" not in page.text
    assert "<svg" not in page.text.partition("<main")[2].partition("</main>")[0], "no chart of half the numbers"


@pytest.mark.parametrize("how", ["raises", "nan", "cancel"])
def test_an_evaluation_that_ends_within_a_checkpoint_shows_nothing_of_it(
    runtime: Runtime, pair: list[Checkpoint], tripwire: list[Callable[[Any], Any]], how: str, client: TestClient,
    sign_in: Callable[..., dict[str, str]],
) -> None:  # fmt: skip
    """64 images are measured at once: the second call is the first checkpoint's second chunk."""
    spec = {
        "checkpoint_ids": [str(row.id) for row in pair], "rewards": [{"name": "brightness"}, {"name": "tripwire"}],
        "n": 130, "steps": 1, "eta": 1.0, "seed": 3,
    }  # fmt: skip
    job = run(runtime, JobKind.EVALUATE, spec, tripwire, how)
    assert job.status is (JobStatus.CANCELLED if how == "cancel" else JobStatus.FAILED), job.error
    assert not job.result
    with runtime.database.reader() as session:
        measured = [session.get(Measurement, (row.id, name)) for row in pair for name in ("brightness", "tripwire")]
    kept = [None if row is None else row.n for row in measured]
    assert kept == [None] * 4
    headers = sign_in()
    shown = client.get(f"/api/v1/jobs/{job.id}", headers=headers).json()
    assert shown["result"] == {}
    if how != "cancel":
        assert _SENTENCES[how] in shown["error"]
    for row in pair:
        assert client.get(f"/api/v1/checkpoints/{row.id}", headers=headers).json()["rewards"] == {}
    page = client.get(f"/jobs/{job.id}", headers=headers | {"accept": "text/html"})
    assert page.status_code == 200
    assert "See the analysis" not in page.text


def test_an_evaluation_in_parts_shows_nothing_before_all_of_it_is_there(
    runtime: Runtime, pair: list[Checkpoint]
) -> None:
    spec = {
        "checkpoint_ids": [str(row.id) for row in pair], "rewards": [{"name": "brightness"}], "steps": 1, "eta": 1.0,
    }  # fmt: skip
    with runtime.database.writer() as session:
        whole = Job(
            kind=JobKind.EVALUATE, name="whole", spec=spec | {"n": 20, "seed": 3, "shards": 2},
            created_at=datetime.now(UTC),
        )  # fmt: skip
        session.add(whole)
        session.flush()
        parts = [
            Job(
                kind=JobKind.EVALUATE, name="part", spec=spec | {"n": 10, "seed": seed}, parent_id=whole.id,
                created_at=datetime.now(UTC),
            )
            for seed in (3, 13)
        ]  # fmt: skip
        session.add_all(parts)

    def run_one(job: Job) -> dict[str, Any]:
        with runtime.database.writer() as session:
            claim = queries.claim(session, job.id, worker="test", now=datetime.now(UTC))
        assert claim is not None
        run_attempt(runtime, claim)
        with runtime.database.reader() as session:
            found = session.get_one(Job, job.id)
        assert found.status is JobStatus.SUCCEEDED, found.error
        return dict(found.result)

    def shown() -> tuple[int, int]:
        with runtime.database.reader() as session:
            return tuple(  # type: ignore[return-value]
                len(session.scalars(select(table)).all()) for table in (SampleReward, Measurement)
            )

    for part in parts:
        handed_over = run_one(part)
        assert runtime.blobs.exists(handed_over["values_sha256"])
        assert shown() == (0, 0)
    result = run_one(whole)
    assert shown() == (2 * 20, 2)
    assert "values_sha256" not in result
    with runtime.database.reader() as session:
        for row in pair:
            values = session.scalars(
                select(SampleReward.value).join(Sample).where(Sample.checkpoint_id == row.id)
            ).all()
            assert result["rewards"][str(row.id)]["brightness"]["mean"] == pytest.approx(sum(values) / 20)
