"""Sampling through a real broker and a real worker."""

import io
from datetime import UTC, datetime

import numpy as np
from PIL import Image
from sqlalchemy import select

from app.adapters.checkpoint_store import manifest_files, materialise
from app.db.models import Checkpoint, JobEvent, Sample
from app.domain.enums import EventKind, JobKind, JobStatus, WorkQueue
from tests.integration.worker.conftest import Stack
from worker.ml.policy import load_policy
from worker.ml.progress import SilentMonitor
from worker.ml.rollout import draw_samples


def spec_of(checkpoint: Checkpoint, **values: object) -> dict[str, object]:
    return {"checkpoint_id": str(checkpoint.id), "n": 6, "seed": 0, "steps": 3, "eta": 1.0, **values}


def samples_of(stack: Stack, checkpoint: Checkpoint) -> list[Sample]:
    with stack.database.reader() as session:
        return list(
            session.scalars(select(Sample).where(Sample.checkpoint_id == checkpoint.id).order_by(Sample.ordinal))
        )


def test_a_job_draws_what_its_seeds_say_and_only_what_is_missing(stack: Stack, tiny_checkpoint: Checkpoint) -> None:
    first = stack.finish(stack.add_job(JobKind.SAMPLE, spec_of(tiny_checkpoint)))
    assert first.result["drawn"] == 6
    assert first.progress == 1.0
    samples = samples_of(stack, tiny_checkpoint)
    assert [(sample.seed, sample.ordinal) for sample in samples] == [(k, k) for k in range(6)]

    again = stack.finish(stack.add_job(JobKind.SAMPLE, spec_of(tiny_checkpoint, seed=2, n=6)))
    assert again.result["drawn"] == 2
    samples = samples_of(stack, tiny_checkpoint)
    assert [sample.ordinal for sample in samples] == list(range(8))
    assert sorted(sample.seed for sample in samples) == list(range(8))

    policy = load_policy(materialise(stack.blobs, tiny_checkpoint.manifest_sha256, stack.settings.cache_dir))
    expected = draw_samples(policy, [5, 7], steps=3, eta=1.0, monitor=SilentMonitor())
    by_seed = {sample.seed: sample for sample in samples}
    for seed, image in zip([5, 7], expected, strict=True):
        with Image.open(io.BytesIO(stack.blobs.get(by_seed[seed].sha256))) as stored:
            assert stored.info == {}
            assert np.abs(np.asarray(stored).astype(int) - image).max() <= 1  # threads may round the last bit otherwise

    with stack.database.reader() as session:
        events = session.scalars(select(JobEvent).where(JobEvent.job_id == first.id).order_by(JobEvent.seq)).all()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[0].payload["status"] == JobStatus.RUNNING
    assert events[-1].payload == {"status": JobStatus.SUCCEEDED}
    listed = [ids for event in events if event.kind is EventKind.SAMPLES for ids in event.payload["sample_ids"]]
    assert set(listed) == {str(sample.id) for sample in samples if sample.job_id == first.id}


def test_a_message_that_comes_twice_runs_the_job_once(stack: Stack, tiny_checkpoint: Checkpoint) -> None:
    job_id = stack.add_job(JobKind.SAMPLE, spec_of(tiny_checkpoint))
    for _ in range(3):
        stack.queue.send(WorkQueue.GPU, JobKind.SAMPLE, job_id)
    later = stack.add_job(JobKind.SAMPLE, spec_of(tiny_checkpoint, n=1))
    stack.finish(later)  # its message stood behind the doubles: they have all been taken by now
    job = stack.job(job_id)
    assert (job.status, job.attempts) == (JobStatus.SUCCEEDED, 1)
    assert len(samples_of(stack, tiny_checkpoint)) == 6


def test_a_job_whose_message_never_went_out_is_found_and_run(stack: Stack, tiny_checkpoint: Checkpoint) -> None:
    stack.finish(stack.add_job(JobKind.SAMPLE, spec_of(tiny_checkpoint, n=1), send=False))


def test_a_broker_that_is_away_loses_nothing(stack: Stack, tiny_checkpoint: Checkpoint) -> None:
    stack.broker.stop()
    job_id = stack.add_job(JobKind.SAMPLE, spec_of(tiny_checkpoint, n=1))  # send() finds nobody
    stack.broker.start()
    assert stack.finish(job_id).attempts == 1


def test_a_damaged_checkpoint_fails_the_job_with_the_reason(stack: Stack, tiny_checkpoint: Checkpoint) -> None:
    files = manifest_files(stack.blobs, tiny_checkpoint.manifest_sha256)
    wrong = stack.blobs.put_json({"files": files | {"README.md": stack.blobs.put(b"will be damaged")}})
    digest = stack.blobs.get_json(wrong)["files"]["README.md"]
    (stack.settings.data_dir / "blobs" / digest[:2] / digest).write_bytes(b"was damaged")
    with stack.database.writer() as session:
        damaged = Checkpoint(
            name="damaged",
            kind=tiny_checkpoint.kind,
            source="test",
            manifest_sha256=wrong,
            image_size=16,
            created_at=datetime.now(UTC),
        )
        session.add(damaged)
    job = stack.wait_for(stack.add_job(JobKind.SAMPLE, spec_of(damaged)), lambda job: job.status.is_final)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert "does not match its hash" in job.error
    assert samples_of(stack, damaged) == []


def test_guided_samples_lie_beside_the_unguided_ones_of_their_seeds(stack: Stack, tiny_checkpoint: Checkpoint) -> None:
    plain = stack.finish(stack.add_job(JobKind.SAMPLE, spec_of(tiny_checkpoint, n=4, steps=5, eta=0.0)))
    guidance = {"reward": "brightness", "scale": 20.0}
    spec = spec_of(tiny_checkpoint, n=4, steps=5, eta=0.0, guidance=guidance)
    job = stack.finish(stack.add_job(JobKind.SAMPLE, spec))
    assert (plain.result["drawn"], job.result["drawn"]) == (4, 4)
    samples = samples_of(stack, tiny_checkpoint)
    assert [(sample.ordinal, sample.seed) for sample in samples] == [
        (-4, 3), (-3, 2), (-2, 1), (-1, 0), (0, 0), (1, 1), (2, 2), (3, 3),
    ]  # fmt: skip
    assert {sample.ordinal < 0 for sample in samples if sample.guidance == guidance} == {True}
    luma = {
        sample.ordinal: np.asarray(Image.open(io.BytesIO(stack.blobs.get(sample.sha256)))) @ [0.299, 0.587, 0.114] / 255
        for sample in samples
    }
    found = job.result["reward"]
    for part, ordinals in (("unguided", range(4)), ("guided", range(-4, 0))):
        assert abs(found[part]["mean"] - np.mean([luma[ordinal] for ordinal in ordinals])) < 1e-6
    assert found["guided"]["mean"] > found["unguided"]["mean"] + 0.01
    assert stack.finish(stack.add_job(JobKind.SAMPLE, spec)).result["drawn"] == 0


def test_a_prompt_without_a_text_tower_fails_with_the_reason(stack: Stack, tiny_checkpoint: Checkpoint) -> None:
    spec = spec_of(tiny_checkpoint, guidance={"prompt": "a red hat", "scale": 2.0})
    job = stack.wait_for(stack.add_job(JobKind.SAMPLE, spec), lambda job: job.status.is_final)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert "was not trained with text" in job.error
    assert samples_of(stack, tiny_checkpoint) == []
