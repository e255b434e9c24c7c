"""A small world with a row in every table that matters, and real blobs behind it."""

import io
import json
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from PIL import Image

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock
from app.db.models import (
    AuditEntry,
    Campaign,
    CampaignCheckpoint,
    Checkpoint,
    Comparison,
    Embedding,
    Job,
    JobEvent,
    LabelSnapshot,
    Measurement,
    Pair,
    Preference,
    RewardModel,
    Sample,
    User,
)
from app.db.session import Database
from app.domain.enums import CheckpointKind, Choice, EventKind, JobKind, JobStatus, Role, Strategy


@dataclass(frozen=True)
class World:
    job_id: UUID
    checkpoint_id: UUID
    finetuned_id: UUID
    campaign_id: UUID
    pair_id: UUID
    comparison_id: UUID
    sample_ids: list[UUID]
    resume_sha256: str
    n_blobs: int
    """Distinct blobs that rows need."""


def png(colour: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 255 - colour)).save(out, "PNG")
    return out.getvalue()


def build_world(database: Database, blobs: BlobStore, clock: Clock) -> World:
    now = clock.now()
    weights = [blobs.put(bytes([number]) * 5000) for number in (1, 2)]
    config = blobs.put(b"{}")
    manifests = [
        blobs.put_json({"files": {"model_index.json": config, "unet/weights.safetensors": digest}})
        for digest in weights
    ]
    resume = blobs.put(b"optimizer state" * 100)
    images = [blobs.put(png(20 * number)) for number in range(4)]
    labels = blobs.put(b"".join(json.dumps({"choice": "left", "n": n}).encode() + b"\n" for n in range(1)))
    head = blobs.put(b"reward head")
    analysis = blobs.put_json({"strip": {"noisy": [blobs.put(png(99))]}, "images": images[:1], "text": "f" * 63})
    with database.writer() as session:
        user = User(name=f"ada \N{SNOWMAN} {uuid4().hex}", role=Role.OPERATOR, created_at=now)
        session.add(user)
        session.flush()
        job = Job(
            kind=JobKind.FINETUNE,
            name="toward warm",
            status=JobStatus.FAILED,
            spec={"epochs": 3, "nested": {"list": [1, 2.5, None, "x"]}},
            inputs={},
            result={"kind": "inversion", "analysis_sha256": analysis},
            last_event_seq=2,
            resume_sha256=resume,
            created_by=user.id,
            created_at=now,
            error="line one\nline two\r\n",
        )
        session.add(job)
        session.flush()
        events = [
            JobEvent(job_id=job.id, seq=n, kind=EventKind.LOG, payload={"message": str(n)}, created_at=now)
            for n in (1, 2)
        ]
        base = Checkpoint(
            name="base",
            kind=CheckpointKind.BASE,
            source="test",
            manifest_sha256=manifests[0],
            image_size=8,
            n_samples=2,
            created_at=now,
        )
        session.add_all([base, *events])
        session.flush()
        finetuned = Checkpoint(
            name="finetuned",
            kind=CheckpointKind.FINETUNED,
            parent_id=base.id,
            job_id=job.id,
            epoch=1,
            source="job",
            manifest_sha256=manifests[1],
            image_size=8,
            n_samples=2,
            diversity=0.1 + 0.2,
            created_at=now - timedelta(days=1),  # older than its parent: a clock that jumped
        )
        session.add(finetuned)
        session.flush()
        samples = [
            Sample(
                checkpoint_id=checkpoint.id,
                ordinal=ordinal,
                seed=ordinal,
                steps=10,
                eta=1.0,
                width=8,
                height=8,
                sha256=images[2 * number + ordinal],
                created_at=now,
            )
            for number, checkpoint in enumerate((base, finetuned))
            for ordinal in range(2)
        ]
        session.add_all(samples)
        session.add(Measurement(checkpoint_id=base.id, name="warm", mean=0.25, sem=0.01, n=10))
        session.add(Embedding(encoder="tiny", image_sha256=images[0], vector=bytes(range(256))))
        session.add(AuditEntry(user_id=user.id, action="test", target="world", detail={}, created_at=now))
        session.flush()
        campaign = Campaign(
            name="which is better",
            question="?",
            strategy=Strategy.UNIFORM,
            n_leased=2,
            budget=10,
            created_by=user.id,
            created_at=now,
        )
        session.add(campaign)
        session.flush()
        a, b = sorted([samples[0].id, samples[2].id])
        pair = Pair(campaign_id=campaign.id, sample_a_id=a, sample_b_id=b, n_leased=1, created_at=now)
        session.add_all([pair, CampaignCheckpoint(campaign_id=campaign.id, checkpoint_id=base.id, position=0)])
        session.flush()
        shown = {
            "campaign_id": campaign.id,
            "pair_id": pair.id,
            "rater_id": user.id,
            "strategy": Strategy.UNIFORM,
            "is_random": True,
            "selection_probability": 0.5,
            "expires_at": now + timedelta(hours=1),
        }
        first = Comparison(left_sample_id=a, right_sample_id=b, leased_at=now, closed_at=now, **shown)
        session.add(first)
        session.flush()
        repeat = Comparison(
            left_sample_id=b,
            right_sample_id=a,
            repetition=1,
            repeat_of=first.id,
            leased_at=now - timedelta(days=1),
            **shown,
        )
        vote = Preference(
            comparison_id=first.id,
            campaign_id=campaign.id,
            rater_id=user.id,
            choice=Choice.LEFT,
            created_at=now,
            updated_at=now,
        )
        snapshot = LabelSnapshot(campaign_id=campaign.id, sha256=labels, n_labels=1, created_at=now)
        session.add_all([repeat, vote, snapshot])
        session.flush()
        session.add(
            RewardModel(
                job_id=job.id,
                campaign_id=campaign.id,
                snapshot_id=snapshot.id,
                name="reward",
                encoder="tiny",
                blob_sha256=head,
                n_labels=1,
                report={"bins": []},
                created_at=now,
            )
        )
    n_blobs = len(weights) + 1 + len(manifests) + 1 + len(images) + 2 + 2
    return World(
        job_id=job.id,
        checkpoint_id=base.id,
        finetuned_id=finetuned.id,
        campaign_id=campaign.id,
        pair_id=pair.id,
        comparison_id=first.id,
        sample_ids=[sample.id for sample in samples],
        resume_sha256=resume,
        n_blobs=n_blobs,
    )
