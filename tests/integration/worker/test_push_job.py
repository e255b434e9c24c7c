"""A push to a hub: what others would fetch from there opens in diffusers and draws the same images."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline

from app.config import Settings
from app.db.models import Checkpoint, Job, Measurement
from app.db.queries import jobs as queries
from app.domain.enums import JobKind, JobStatus
from tests.integration.worker.conftest import add_base
from tests.integration.worker.fake_hub import TOKEN, Hub, running_hub
from worker.jobs.child import run_attempt
from worker.jobs.runtime import Runtime, open_runtime


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


PushJob = Callable[..., Job]


@pytest.fixture
def push(sqlite_database_url: str, tmp_path: Path, tiny_model: Path, hub: Hub) -> PushJob:
    """Push a base checkpoint from a worker with this token; the job as it ended."""

    def _push(token: str | None = TOKEN, endpoint: str | None = None, **spec: Any) -> Job:
        runtime = open_runtime(
            Settings(
                mode="demo", data_dir=tmp_path / "data", database_url=sqlite_database_url, device="cpu",
                worker_concurrency=64, hub_token=token, hub_endpoint=endpoint or hub.url,
            )  # type: ignore[arg-type]
        )  # fmt: skip
        base = add_base(runtime, tiny_model)
        return run(runtime, base, spec)

    return _push


def run(runtime: Runtime, base: Checkpoint, spec: dict[str, Any]) -> Job:
    full = {"checkpoint_id": str(base.id), "repo_id": "lab/model", **spec}
    with runtime.database.writer() as session:
        session.add(Measurement(checkpoint_id=base.id, name="brightness", mean=0.5, sem=0.01, n=16))
        job = Job(kind=JobKind.PUSH, name="push", spec=full, created_at=datetime.now(UTC))
        session.add(job)
    with runtime.database.writer() as session:
        claim = queries.claim(session, job.id, worker="test", now=datetime.now(UTC))
    assert claim is not None
    run_attempt(runtime, claim)
    with runtime.database.reader() as session:
        return session.get_one(Job, job.id)


def test_what_was_pushed_opens_in_diffusers_and_draws_the_same(
    push: PushJob, hub: Hub, tiny_model: Path, tmp_path: Path
) -> None:
    job = push(message="first")
    assert job.error is None
    assert job.status is JobStatus.SUCCEEDED
    assert (job.result["url"], job.result["commit"]) == (f"{hub.url}/lab/model", "c" * 40)
    assert (hub.private, hub.messages) == (True, ["first"])
    card = hub.files["README.md"].decode()
    assert "| brightness | 0.5 | 0.01 | 16 |" in card
    assert 'from_pretrained("lab/model")' in card
    drawn = [
        DDPMPipeline.from_pretrained(folder)(
            generator=torch.Generator().manual_seed(3), num_inference_steps=2, output_type="np"
        ).images
        for folder in (tiny_model, hub.write_to(tmp_path / "clone"))
    ]
    assert (drawn[0] == drawn[1]).all()


@pytest.mark.parametrize(
    ("refusal", "arguments", "says"),
    [
        (None, {"token": None}, "TASTEMAKER_HUB_TOKEN"),
        (None, {"token": "hf_wrong"}, "does not let this token write to lab/model (401)"),
        (403, {}, "does not let this token write to lab/model (403)"),
        (None, {"endpoint": "http://127.0.0.1:1"}, "could not be pushed"),
    ],
)
def test_a_push_that_is_refused_says_why(
    push: PushJob, hub: Hub, refusal: int | None, arguments: dict[str, Any], says: str
) -> None:
    hub.refuse_with = refusal
    job = push(**arguments)
    assert job.status is JobStatus.FAILED
    assert says in (job.error or "")
    assert TOKEN not in (job.error or "")
    assert hub.files == {}
