"""Analysis jobs through a real broker and a real worker."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import torch
from PIL import Image
from sqlalchemy import select
from transformers import ViTForImageClassification, ViTImageProcessor

from app.config import Settings
from app.db.models import Checkpoint, Embedding, Job, Sample, Upload
from app.db.queries import jobs as queries
from app.domain.enums import JobKind, JobStatus
from app.domain.specs import RewardTerm
from tests.age_classifier import save_age_classifier
from tests.integration.worker.conftest import Stack, add_base
from worker.jobs.child import run_attempt
from worker.jobs.runtime import open_runtime
from worker.ml.policy import load_policy, save_policy
from worker.ml.rewards.age import AGE_CLASSES, AgeClassifier
from worker.ml.rewards.pixels import brightness


def spec_of(kind: str, *checkpoints: Checkpoint, **values: Any) -> dict[str, Any]:
    ids = [str(checkpoint.id) for checkpoint in checkpoints]
    return {"kind": kind, "checkpoint_ids": ids, "n": 6, "steps": 3, "seed": 3, **values}


def document_of(stack: Stack, job: Job) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(stack.blobs.get(job.result["analysis_sha256"]))
    return document


def pixels_of(stack: Stack, sha256s: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(stack.blobs.get(sha256)))) for sha256 in sha256s])


@pytest.fixture(scope="module")
def other_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its weights disturbed, as finetuning would."""
    policy = load_policy(tiny_model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.unet.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("other") / "model"
    save_policy(policy, folder)
    return folder


def test_reward_trajectories_repeat_to_the_same_document(stack: Stack, tiny_checkpoint: Checkpoint) -> None:
    spec = spec_of("reward_trajectory", tiny_checkpoint, rewards=[{"name": "brightness"}], states=3)
    first = stack.finish(stack.add_job(JobKind.ANALYZE, spec))
    again = stack.finish(stack.add_job(JobKind.ANALYZE, spec))
    assert first.result == again.result
    assert first.progress == 1.0

    (traced,) = document_of(stack, first)["trajectories"]
    assert traced["states"] == [0, 2, 3]
    along = traced["rewards"]["brightness"]
    values = np.array(along["noisy"]["values"])
    assert values.shape == (6, 3)
    np.testing.assert_allclose(along["noisy"]["mean"], values.mean(axis=0))
    for rank, index in (("best", values[:, -1].argmax()), ("worst", values[:, -1].argmin())):
        assert along[rank]["seed"] == 3 + index
        np.testing.assert_allclose(brightness(pixels_of(stack, along[rank]["noisy"])), values[index])
        denoised = np.array(along["denoised"]["values"])[index]
        np.testing.assert_allclose(brightness(pixels_of(stack, along[rank]["denoised"])), denoised)


def test_a_map_pairs_samples_of_the_same_noise_and_reuses_what_exists(
    stack: Stack, tiny_checkpoint: Checkpoint, other_model: Path
) -> None:
    other = add_base(stack, other_model)
    spec = spec_of("embedding_map", tiny_checkpoint, other, rewards=[{"name": "brightness"}])
    first = stack.finish(stack.add_job(JobKind.ANALYZE, spec))
    document = document_of(stack, first)
    assert [len(images) for images in document["images"]] == [6, 6]
    with stack.database.reader() as session:
        for checkpoint, images in zip((tiny_checkpoint, other), document["images"], strict=True):
            samples = session.scalars(
                select(Sample).where(Sample.checkpoint_id == checkpoint.id).order_by(Sample.seed)
            ).all()
            assert [sample.sha256 for sample in samples] == images
        embedded = session.scalars(select(Embedding).where(Embedding.image_sha256.in_(document["images"][1]))).all()
    assert len(embedded) == len(set(document["images"][1]))
    for images, rewards in zip(document["images"], document["rewards"]["brightness"], strict=True):
        np.testing.assert_allclose(rewards, brightness(pixels_of(stack, images)))
    (mapped,) = document["maps"]
    for method in ("pca", "tsne"):
        assert np.array(mapped[method]["base"]).shape == np.array(mapped[method]["finetuned"]).shape == (6, 2)
    assert stack.finish(stack.add_job(JobKind.ANALYZE, spec)).result == first.result


def test_the_diversity_of_a_model_beside_itself_is_the_same(
    stack: Stack, tiny_checkpoint: Checkpoint, tiny_model: Path
) -> None:
    twin = add_base(stack, tiny_model)
    job = stack.finish(stack.add_job(JobKind.ANALYZE, spec_of("diversity", tiny_checkpoint, twin, n=8)))
    base, same = document_of(stack, job)["diversity"]
    assert base == same
    assert 1 <= base["vendi"]["value"] <= 8
    low, high = base["vendi"]["interval"]
    assert low <= high


def test_an_inversion_shows_the_noise_and_comes_closer_as_steps_are_skipped(
    stack: Stack, tiny_checkpoint: Checkpoint
) -> None:
    pixels = np.zeros((48, 48, 3), np.uint8)
    pixels[8:40, 8:40] = [200, 60, 20]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    with stack.database.writer() as session:
        upload = Upload(sha256=stack.blobs.put(out.getvalue()), width=48, height=48, created_at=datetime.now(UTC))
        session.add(upload)
    spec = spec_of("inversion", tiny_checkpoint, image_id=str(upload.id), steps=10, skips=[7, 0, 4])
    job = stack.finish(stack.add_job(JobKind.ANALYZE, spec))
    (found,) = document_of(stack, job)["inversions"]
    assert pixels_of(stack, [found["image"]]).shape == (1, 16, 16, 3)
    assert [result["skip"] for result in found["results"]] == [0, 4, 7]
    psnrs = [result["psnr"] for result in found["results"]]
    assert psnrs[-1] > psnrs[0]
    original = pixels_of(stack, [found["image"]]).astype(float)
    for result in found["results"]:
        error = ((pixels_of(stack, [result["image"]]) - original) ** 2).mean()
        assert result["psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    assert stack.finish(stack.add_job(JobKind.ANALYZE, spec)).result == job.result


def test_ages_are_judged_as_the_classifier_does_and_only_once_an_image(
    sqlite_database_url: str, tmp_path: Path, tiny_model: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = save_age_classifier(tmp_path / "weights")
    settings = Settings(
        mode="demo", data_dir=tmp_path / "data", database_url=sqlite_database_url, device="cpu", weights_dir=weights,
        worker_concurrency=64,
    )  # fmt: skip
    runtime = open_runtime(settings)
    bases = [add_base(runtime, folder) for folder in (tiny_model, other_model)]

    def run(seed: int) -> tuple[Job, dict[str, Any]]:
        spec = spec_of("age_distribution", *bases, n=20, seed=seed)
        with runtime.database.writer() as session:
            job = Job(kind=JobKind.ANALYZE, name="ages", spec=spec, created_at=datetime.now(UTC))
            session.add(job)
        with runtime.database.writer() as session:
            claim = queries.claim(session, job.id, worker="test", now=datetime.now(UTC))
        assert claim is not None
        run_attempt(runtime, claim)
        with runtime.database.reader() as session:
            job = session.get_one(Job, job.id)
        assert job.status is JobStatus.SUCCEEDED, job.error
        return job, json.loads(runtime.blobs.get(job.result["analysis_sha256"]))

    first, document = run(seed=3)
    model = ViTForImageClassification.from_pretrained(weights / "vit-age-classifier").eval()
    processor = ViTImageProcessor.from_pretrained(weights / "vit-age-classifier")
    for checkpoint, found in zip(bases, document["distributions"], strict=True):
        with runtime.database.reader() as session:
            samples = session.scalars(select(Sample).where(Sample.checkpoint_id == checkpoint.id)).all()
        assert len(samples) == 20
        counts = dict.fromkeys(AGE_CLASSES, 0)
        for sample in samples:
            image = Image.open(io.BytesIO(runtime.blobs.get(sample.sha256)))
            with torch.no_grad():
                best = int(model(**processor(image, return_tensors="pt")).logits.argmax())
            counts[AGE_CLASSES[best]] += 1
        assert {row["name"]: row["count"] for row in found["classes"]} == counts
        young = sum(counts[name] for name in ("0-2", "3-9", "10-19", "20-29"))
        old = sum(counts[name] for name in ("50-59", "60-69", "more than 70"))
        assert [(group["name"], group["count"]) for group in found["groups"]] == [
            ("under 30", young),
            ("50 and over", old),
        ]

    seen: list[int] = []
    logits = AgeClassifier.logits
    monkeypatch.setattr(AgeClassifier, "logits", lambda self, images: seen.append(len(images)) or logits(self, images))
    again, _ = run(seed=3)
    assert (again.result["analysis_sha256"], seen) == (first.result["analysis_sha256"], [])
    run(seed=13)
    assert sum(seen) == 2 * 10, "half of each checkpoint's images were judged before"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"kind": "age_distribution"}, "TASTEMAKER_WEIGHTS_DIR"),
        ({"kind": "inversion", "image_id": str(UUID(int=7))}, "does not exist any more; upload it again"),
        ({"kind": "reward_trajectory", "rewards": [RewardTerm(name="over50").model_dump()]}, "TASTEMAKER_WEIGHTS_DIR"),
    ],
)
def test_an_analysis_that_cannot_run_here_says_why(
    stack: Stack, tiny_checkpoint: Checkpoint, spec: dict[str, Any], sentence: str
) -> None:
    job_id = stack.add_job(JobKind.ANALYZE, {**spec_of("", tiny_checkpoint), **spec})
    job = stack.wait_for(job_id, lambda job: job.status.is_final)
    assert job.status is JobStatus.FAILED
    assert sentence in (job.error or "")
    assert job.result is None or "analysis_sha256" not in job.result


def test_a_cancelled_analysis_leaves_no_document(stack: Stack, tiny_checkpoint: Checkpoint) -> None:
    spec = spec_of("reward_trajectory", tiny_checkpoint, n=10_000, steps=100, rewards=[{"name": "brightness"}])
    job_id = stack.add_job(JobKind.ANALYZE, spec)
    stack.wait_for(job_id, lambda job: job.progress > 0)
    with stack.database.writer() as session:
        job = session.get(Job, job_id)
        assert job is not None
        job.cancel_requested = True
    job = stack.wait_for(job_id, lambda job: job.status.is_final)
    assert job.status is JobStatus.CANCELLED
    assert not (job.result or {}).get("analysis_sha256")
    assert job.finished_at is None or job.finished_at <= datetime.now(UTC)
