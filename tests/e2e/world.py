"""A lived-in installation for the browser tests: real rows and real images, made without a worker."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from PIL import Image, ImageOps
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters import checkpoint_store
from app.adapters.blobs import BlobStore
from app.db.models import (
    Campaign,
    CampaignCheckpoint,
    Checkpoint,
    Comparison,
    GoldPair,
    Job,
    JobEvent,
    LabelSnapshot,
    Measurement,
    Pair,
    Preference,
    RewardAvailability,
    RewardModel,
    Sample,
    SampleReward,
    User,
    Worker,
)
from app.db.queries.samples import DrawnImage, Recipe, add_samples
from app.domain.bundled import BUNDLED
from app.domain.enums import (
    AnalysisKind,
    CampaignStatus,
    CheckpointKind,
    Choice,
    EventKind,
    JobKind,
    JobStatus,
    Role,
    Strategy,
)
from app.domain.jobs import parts_of
from app.domain.pairing import canonical
from app.domain.specs import GuidanceSpec, parse_spec
from app.services import accounts
from tests.e2e.analyses import AnalysisDocuments

_SHEET = Path(__file__).resolve().parents[2] / "worker" / "ml" / "pretrained" / "critters-64" / "samples.png"
_EDGE = 64
_TILE = 128  # the sheet shows every sample twice as large
_EPOCHS = 6
_EVAL_SEED = 650
_N_EVAL = 16
_STEPS = 20


@dataclass(frozen=True)
class World:
    """The ids that tests go to."""

    base: UUID
    tuned: UUID
    """The last epoch of the finetune that has ended."""
    early: UUID
    """An earlier epoch of it."""
    sample: UUID
    """A sample of `tuned` on a seed that all its line has drawn."""
    finished: UUID
    running: UUID
    failed: UUID
    sharded: UUID
    """An evaluation that waits for its parts."""
    campaign: UUID
    """With votes of three raters."""
    fresh_campaign: UUID
    """Without votes, open to every rater, with guidelines."""
    tournament: UUID
    reward_model: UUID
    rater: UUID
    """Who voted in `campaign`."""
    trajectory: UUID
    embedding_map: UUID
    diversity: UUID
    inversion: UUID
    ages: UUID
    failed_analysis: UUID
    running_analysis: UUID
    guided: UUID
    """A sampling job with guidance, and its samples."""


def build_world(session: Session, blobs: BlobStore, now: datetime) -> World:
    """Fill an empty, migrated database."""
    return _Builder(session, blobs, now).build()


def sheet_images() -> list[bytes]:
    """The bundled model's sample sheet, cut into PNG files of one sample each."""
    sheet = Image.open(_SHEET).convert("RGB")
    files: list[bytes] = []
    for y in range(0, sheet.height, _TILE):
        for x in range(0, sheet.width, _TILE):
            out = io.BytesIO()
            tile = sheet.crop((x, y, x + _TILE, y + _TILE)).resize((_EDGE, _EDGE), Image.Resampling.BOX)
            tile.save(out, "PNG")
            files.append(out.getvalue())
    return files


class _Builder:
    def __init__(self, session: Session, blobs: BlobStore, now: datetime) -> None:
        self.session, self.blobs, self.now = session, blobs, now
        self.rng = Random(7)
        sheet = Image.open(_SHEET).convert("RGB")
        drawn = [
            sheet.crop((x, y, x + _TILE, y + _TILE)).resize((_EDGE, _EDGE), Image.Resampling.BOX)
            for y in range(0, sheet.height, _TILE)
            for x in range(0, sheet.width, _TILE)
        ]
        turned = [Image.merge("RGB", [image.split()[place] for place in (1, 2, 0)]) for image in drawn]
        self.tiles = [*drawn, *turned, *(ImageOps.mirror(image) for image in [*drawn, *turned])]

    def build(self) -> World:
        raters = [accounts.ensure_user(self.session, name, Role.RATER, self.now) for name in ("Mira", "Tomás", "Yusuf")]
        for name, can_run, why in (
            ("jpeg_compressibility", True, None),
            ("jpeg_incompressibility", True, None),
            ("aesthetic", False, "sac+logos+ava1-l14-linearMSE.safetensors is not in TASTEMAKER_WEIGHTS_DIR."),
        ):
            self._availability(name, can_run, why)
        base = self._checkpoint("critters-64", CheckpointKind.BASE, age=300, tags=["bundled"])
        drawn = self._samples(base, range(len(self.tiles)), epoch=0)
        self.base_eval = self._samples(base, range(_EVAL_SEED, _EVAL_SEED + _N_EVAL), epoch=0)
        self._measure(base, 0.02, 0.11)
        campaign = self._campaign("First taste", "Which critter do you like better?", Strategy.UNIFORM, [base], age=240)
        self._votes(campaign, drawn[:24], raters, n=168)
        for better, worse in ((40, 47), (52, 61)):
            self._gold(campaign, drawn[better], drawn[worse])
        reward_model = self._reward_model(campaign)
        finished, tuned = self._finetune(base, reward_model)
        running = self._running_finetune(base)
        failed = self._job(
            JobKind.FINETUNE, "critters-64 toward aesthetic", JobStatus.FAILED, age=60, progress=0.3,
            spec={"checkpoint_id": str(base.id), "reward": {"name": "aesthetic"}},
            error="The weights sac+logos+ava1-l14-linearMSE.safetensors are missing; put the file into "
            "TASTEMAKER_WEIGHTS_DIR and resume.",
        )  # fmt: skip
        self._job(JobKind.SAMPLE, "Draw 64 from critters-64", JobStatus.QUEUED, age=1,
                  spec={"checkpoint_id": str(base.id)})  # fmt: skip
        self._job(JobKind.SAMPLE, "First samples", JobStatus.SUCCEEDED, age=280,
                  spec={"checkpoint_id": str(base.id), "n": 96, "steps": _STEPS}, result={"n_samples": 96})  # fmt: skip
        sharded = self._sharded(base, tuned)
        self._workers()
        analyses = self._analyses(base, tuned, finished)
        fresh = self._campaign(
            "Warm and cosy", "Which critter looks **warmer**?".replace("*", ""), Strategy.UNIFORM, [base, tuned],
            age=5, budget=400,
            guidelines="Judge the *whole* image.\n\n- Warm: reds, oranges, browns\n- Skip when you have no opinion\n\n"
            "<script>alert(1)</script> [a link](javascript:alert(2))",
        )  # fmt: skip
        tournament = self._campaign(
            "Blind: warmer critters", "Which critter do you like better?", Strategy.TOURNAMENT, [base, tuned], age=4,
            budget=16,
        )  # fmt: skip
        self.session.flush()
        return World(
            base=base.id, tuned=tuned.id, early=self.early, sample=self.sample,
            finished=finished.id, running=running.id, failed=failed.id, sharded=sharded.id,
            campaign=campaign.id, fresh_campaign=fresh.id, tournament=tournament.id, reward_model=reward_model.id,
            rater=raters[2].id,
            **analyses,
        )  # fmt: skip

    def _analyses(self, base: Checkpoint, tuned: Checkpoint, run: Job) -> dict[str, UUID]:
        """One finished analysis a kind, one that failed, one that runs, and guided samples."""
        documents = AnalysisDocuments(self.session, self.blobs, self.rng)
        epochs = list(
            self.session.scalars(select(Checkpoint).where(Checkpoint.job_id == run.id).order_by(Checkpoint.epoch))
        )
        before, after = (
            list(
                self.session.scalars(
                    select(Sample)
                    .where(Sample.checkpoint_id == row.id, Sample.seed >= _EVAL_SEED)
                    .order_by(Sample.seed)
                )
            )
            for row in (base, tuned)
        )

        for place, row in enumerate([base, *epochs]):
            for sample in self.session.scalars(
                select(Sample).where(Sample.checkpoint_id == row.id, Sample.seed >= _EVAL_SEED)
            ):
                value = self.rng.gauss(-3.2 - 0.12 * place, 0.35)
                self.session.merge(SampleReward(sample_id=sample.id, name="jpeg_compressibility", value=value))
        self.session.flush()

        def job(kind: AnalysisKind, name: str, checkpoints: Sequence[Checkpoint], **more: Any) -> Job:
            ids = [str(row.id) for row in checkpoints]
            status, error = more.pop("status", JobStatus.SUCCEEDED), more.pop("error", None)
            spec = {"kind": kind.value, "checkpoint_ids": ids, "n": _N_EVAL, "steps": _STEPS, **more}
            progress = 0.37 if status is JobStatus.RUNNING else 0.0
            return self._job(JobKind.ANALYZE, name, status, age=6, spec=spec, error=error, progress=progress,
                             stage="Drawing samples: 118 of 320")  # fmt: skip

        rewards = [{"name": "brightness"}]
        upload = documents.upload(before[3])
        trajectory = job(AnalysisKind.REWARD_TRAJECTORY, "Brightness on the way", [base], n=60, rewards=rewards)
        mapped = job(AnalysisKind.EMBEDDING_MAP, "Where warmth moved them", [base, tuned], rewards=rewards)
        diversity = job(AnalysisKind.DIVERSITY, "Diversity over the run", [base, *epochs])
        inversion = job(AnalysisKind.INVERSION, "Inversion of critters-64", [base], image_id=str(upload.id))
        ages = job(AnalysisKind.AGE_DISTRIBUTION, "Ages before and after", [base, tuned], n=300)
        guidance = GuidanceSpec(reward="brightness", scale=10.0)
        guided = self._job(
            JobKind.SAMPLE, "Draw 8 from critters-64 guided by brightness", JobStatus.SUCCEEDED, age=5,
            spec={"checkpoint_id": str(base.id), "n": 8, "seed": _EVAL_SEED, "steps": _STEPS,
                  "guidance": guidance.recipe},
            result={"reward": {"guided": {"mean": 0.61, "sem": 0.012, "n": 8},
                               "unguided": {"mean": 0.52, "sem": 0.015, "n": 8}}},
        )  # fmt: skip
        drawn = [DrawnImage(_EVAL_SEED + row, sample.sha256, _EDGE, _EDGE) for row, sample in enumerate(after[:8])]
        add_samples(self.session, Recipe(base.id, _STEPS, 1.0, guidance.recipe), drawn, job_id=guided.id, now=self.now)
        failed = job(
            AnalysisKind.AGE_DISTRIBUTION, "Ages", [base], status=JobStatus.FAILED,
            error="model.safetensors of nateraw/vit-age-classifier could not be downloaded from the hub.",
        )  # fmt: skip
        running = job(AnalysisKind.DIVERSITY, "Diversity, larger", [base, tuned], status=JobStatus.RUNNING)
        return {
            "trajectory": documents.finish(trajectory, [base], documents.trajectories(before, 60)),
            "embedding_map": documents.finish(mapped, [base, tuned], documents.map(before, after)),
            "diversity": documents.finish(diversity, [base, *epochs], documents.diversity(1 + len(epochs), _N_EVAL)),
            "inversion": documents.finish(inversion, [base], documents.inversion(before)),
            "ages": documents.finish(ages, [base, tuned], documents.ages()),
            "failed_analysis": failed.id,
            "running_analysis": running.id,
            "guided": guided.id,
        }

    def _ago(self, minutes: float) -> datetime:
        return self.now - timedelta(minutes=minutes)

    def _availability(self, name: str, can_run: bool, why_not: str | None) -> None:
        info = {
            "title": name.replace("_", " ").capitalize(), "description": "As the worker describes it.", "unit": "",
            "direction": "higher is more of it", "range": [None, None], "needs": "", "can_run": can_run,
            "why_not": why_not,
        }  # fmt: skip
        self.session.add(RewardAvailability(name=name, info=info, updated_at=self.now))

    def _checkpoint(
        self, name: str, kind: CheckpointKind, *, age: float, parent: Checkpoint | None = None, job: Job | None = None,
        epoch: int | None = None, kl: float | None = None, diversity: float | None = None, tags: Sequence[str] = (),
    ) -> Checkpoint:  # fmt: skip
        if parent is None:
            manifest = checkpoint_store.store_folder(self.blobs, BUNDLED["critters-64"])
        else:
            files = {"model_index.json": self.blobs.put(b'{"_class_name": "DDPMPipeline"}')}
            manifest = self.blobs.put_json({"files": files})
        row = Checkpoint(
            name=name, kind=kind, parent_id=parent.id if parent else None, job_id=job.id if job else None, epoch=epoch,
            source="critters-64" if parent is None else "finetune", image_size=_EDGE, kl_nats=kl, diversity=diversity,
            manifest_sha256=manifest, tags=list(tags), n_samples=0,
            created_at=self._ago(age),
        )  # fmt: skip
        self.session.add(row)
        self.session.flush()
        return row

    def _samples(self, checkpoint: Checkpoint, seeds: range, *, epoch: int) -> list[Sample]:
        rows = []
        for seed in seeds:
            image = _warmer(self.tiles[seed % len(self.tiles)], epoch / _EPOCHS)
            encoded = io.BytesIO()
            image.save(encoded, "PNG")
            rows.append(
                Sample(
                    checkpoint_id=checkpoint.id,
                    ordinal=checkpoint.n_samples,
                    seed=seed,
                    steps=_STEPS,
                    eta=1.0,
                    guidance_key="",
                    width=_EDGE,
                    height=_EDGE,
                    sha256=self.blobs.put(encoded.getvalue()),
                    created_at=checkpoint.created_at + timedelta(milliseconds=seed),
                )
            )
            checkpoint.n_samples += 1
        self.session.add_all(rows)
        self.session.flush()
        return rows

    def _measure(self, checkpoint: Checkpoint, mean: float, sem: float, name: str = "jpeg_compressibility") -> None:
        self.session.add(Measurement(checkpoint_id=checkpoint.id, name=name, mean=mean, sem=sem, n=_N_EVAL))

    def _campaign(
        self, name: str, question: str, strategy: Strategy, checkpoints: Sequence[Checkpoint], *, age: float,
        budget: int | None = None, guidelines: str = "",
    ) -> Campaign:  # fmt: skip
        row = Campaign(
            name=name, question=question, guidelines=guidelines, strategy=strategy, overlap=1, budget=budget,
            n_leased=0, open=True, status=CampaignStatus.ACTIVE, created_at=self._ago(age),
        )  # fmt: skip
        self.session.add(row)
        self.session.flush()
        self.session.add_all(
            CampaignCheckpoint(campaign_id=row.id, checkpoint_id=checkpoint.id, position=position)
            for position, checkpoint in enumerate(checkpoints)
        )
        self.session.flush()
        return row

    def _votes(self, campaign: Campaign, samples: Sequence[Sample], raters: Sequence[User], *, n: int) -> None:
        seen = set()
        seed_of = {sample.id: sample.seed for sample in samples}
        while len(seen) < n:
            a, b = canonical(*(sample.id for sample in self.rng.sample(list(samples), 2)))
            if (a, b) in seen:
                continue
            moment = self._ago(200 - len(seen))
            rater = raters[len(seen) % len(raters)]
            seen.add((a, b))
            pair = Pair(campaign_id=campaign.id, sample_a_id=a, sample_b_id=b, n_leased=1, created_at=moment)
            self.session.add(pair)
            self.session.flush()
            lease = Comparison(
                campaign_id=campaign.id, pair_id=pair.id, rater_id=rater.id, left_sample_id=a, right_sample_id=b,
                strategy=Strategy.UNIFORM, is_random=True, selection_probability=1e-4, leased_at=moment,
                expires_at=moment + timedelta(minutes=15), closed_at=moment,
            )  # fmt: skip
            self.session.add(lease)
            self.session.flush()
            # two raters share a taste, the third flips coins
            taste = [84, 6] if seed_of[a] < seed_of[b] else [6, 84]
            choice = self.rng.choices(list(Choice), weights=[*(taste if rater != raters[2] else [46, 44]), 6, 2, 2])[0]
            self.session.add(
                Preference(
                    comparison_id=lease.id,
                    campaign_id=campaign.id,
                    rater_id=rater.id,
                    choice=choice,
                    response_ms=self.rng.randint(600, 4000),
                    created_at=moment,
                    updated_at=moment,
                )
            )
        campaign.n_leased += n

    def _gold(self, campaign: Campaign, better: Sample, worse: Sample) -> None:
        a, b = canonical(better.id, worse.id)
        pair = Pair(campaign_id=campaign.id, sample_a_id=a, sample_b_id=b, n_leased=0, created_at=self.now)
        self.session.add(pair)
        self.session.flush()
        self.session.add(
            GoldPair(pair_id=pair.id, campaign_id=campaign.id, better_sample_id=better.id, created_at=self.now)
        )

    def _job(
        self, kind: JobKind, name: str, status: JobStatus, *, age: float, spec: dict[str, object],
        progress: float = 0.0, error: str | None = None, result: dict[str, object] | None = None, stage: str = "",
        eta: float | None = None,
    ) -> Job:  # fmt: skip
        started = None if status is JobStatus.QUEUED else self._ago(age - 0.2)
        row = Job(
            kind=kind, name=name, status=status, spec=parse_spec(kind, spec).model_dump(mode="json"), inputs={},
            progress=1.0 if status is JobStatus.SUCCEEDED else progress, stage=stage, eta_seconds=eta, error=error,
            result=result or {}, attempts=0 if started is None else 1, last_event_seq=0, created_at=self._ago(age),
            started_at=started, finished_at=self._ago(age - 4) if status.is_final else None, heartbeat_at=self.now,
        )  # fmt: skip
        self.session.add(row)
        self.session.flush()
        return row

    def _event(self, job: Job, kind: EventKind, payload: dict[str, object]) -> None:
        job.last_event_seq += 1
        moment = job.created_at + timedelta(seconds=job.last_event_seq)
        event = JobEvent(job_id=job.id, seq=job.last_event_seq, kind=kind, payload=payload, created_at=moment)
        self.session.add(event)

    def _epoch(self, job: Job, epoch: int) -> None:
        """What a finetune reports of one epoch."""
        mean = 1.6 * (1 - math.exp(-epoch / 3)) + self.rng.gauss(0, 0.03)
        spread = 1.0 - 0.05 * epoch
        quantiles = [mean + spread * z for z in (-1.28, -0.67, 0.0, 0.67, 1.28)]
        counts = [0] * 24
        for _ in range(64):
            counts[min(23, max(0, round(12 + 4 * self.rng.gauss(0, 1))))] += 1
        row: dict[str, object] = {
            "reward_histogram": counts, "reward_min": mean - 3 * spread, "reward_max": mean + 3 * spread,
            "epoch": epoch, "reward_mean": mean, "reward_std": spread, "reward_quantiles": quantiles,
            "eval_reward_mean": mean + 0.05, "kl_nats": 0.9 * epoch**1.5, "clip_fraction": 0.04 + 0.01 * epoch,
            "grad_norm": 0.8 + self.rng.random() / 4, "lr": 2e-4, "diversity": 11.5 - 0.3 * epoch,
            "timesteps": list(range(976, 496, -40)), "seconds_rollout": 6.0, "seconds_update": 5.0,
            "clip_fraction_t": [0.02 + 0.004 * step for step in range(12)],
            "log_ratio_t": [0.3 * math.sin(step) for step in range(12)],
            "grad_norm_t": [0.4 + 0.02 * step + self.rng.random() / 20 for step in range(12)],
        }  # fmt: skip
        self._event(job, EventKind.METRICS, row)
        self._event(
            job, EventKind.LOG, {"message": f"epoch {epoch}: reward {mean:.3f}, KL {0.9 * epoch**1.5:.2f} nats"}
        )

    def _finetune(self, base: Checkpoint, model: RewardModel) -> tuple[Job, Checkpoint]:
        name = f"preference:{model.id}"
        reward = {"name": "preference", "reward_model_id": str(model.id)}
        job = self._job(JobKind.FINETUNE, "warmer critters", JobStatus.SUCCEEDED, age=40, spec={
            "checkpoint_id": str(base.id), "preset": "critters-quick", "reward": reward,
        })  # fmt: skip
        self._measure(base, -0.04, 0.21, name)
        self.session.add_all(
            SampleReward(sample_id=sample.id, name=name, value=self.rng.gauss(-0.04, 0.8)) for sample in self.base_eval
        )
        row = base
        for epoch in range(1, _EPOCHS + 1):
            self._epoch(job, epoch)
            row = self._checkpoint(
                f"warmer critters · epoch {epoch}", CheckpointKind.FINETUNED, age=40 - epoch, parent=base, job=job,
                epoch=epoch, kl=0.9 * epoch**1.5, diversity=11.5 - 0.3 * epoch,
            )  # fmt: skip
            samples = self._samples(row, range(_EVAL_SEED, _EVAL_SEED + _N_EVAL), epoch=epoch)
            if epoch == 2:
                self.early = row.id
            self.sample = samples[3].id
            mean = 1.6 * (1 - math.exp(-epoch / 3))
            self._measure(row, mean, 0.18, name)
            self._measure(row, 0.02 + 0.03 * epoch, 0.1)
            self.session.add_all(
                SampleReward(sample_id=sample.id, name=name, value=mean + self.rng.gauss(0, 0.7)) for sample in samples
            )
        self._event(
            job, EventKind.ALARM, {
                "epoch": 5, "verdict": "improved at a cost", "last_good_epoch": 4, "witnesses": ["diversity"],
                "alarms": ["diversity fell to 78% of the base's"],
                "message": "Improved at a cost: the learned reward moved by +1.31 (standard error 0.21), but diversity "
                "fell to 78% of the base's.",
            },
        )  # fmt: skip
        job.result = {"checkpoint_id": str(row.id), "epochs": _EPOCHS, "stopped_by": None}
        job.resume_sha256 = row.manifest_sha256
        return job, row

    def _running_finetune(self, base: Checkpoint) -> Job:
        job = self._job(
            JobKind.FINETUNE, "smaller files", JobStatus.RUNNING, age=3, progress=0.43, eta=260.0,
            stage="Epoch 5: sampling", spec={
                "checkpoint_id": str(base.id), "preset": "critters-quick", "epochs": 10,
                "reward": {"name": "jpeg_compressibility"},
            },
        )  # fmt: skip
        for epoch in range(1, 5):
            self._epoch(job, epoch)
        usage = {
            "cpu_percent": 187.0, "cores": 2, "memory_bytes": 912_000_000, "peak_memory_bytes": 1_130_000_000,
            "machine_memory_bytes": 3_400_000_000, "machine_memory_total_bytes": 8_200_000_000,
        }  # fmt: skip
        self._event(job, EventKind.WORKER, usage)
        job.worker = "worker-1:4711"
        return job

    def _sharded(self, base: Checkpoint, tuned: Checkpoint) -> Job:
        spec: dict[str, Any] = {
            "checkpoint_ids": [str(base.id), str(tuned.id)], "rewards": [{"name": "brightness"}], "n": 1000,
            "shards": 3,
        }  # fmt: skip
        whole = self._job(JobKind.EVALUATE, "Evaluate 2 checkpoints", JobStatus.QUEUED, age=9, progress=0.55,
                          stage="1 of 3 parts done", spec=spec)  # fmt: skip
        states = ((JobStatus.SUCCEEDED, 1.0), (JobStatus.RUNNING, 0.62), (JobStatus.QUEUED, 0.0))
        for number, (part, (status, progress)) in enumerate(
            zip(parts_of(parse_spec(whole.kind, spec)), states, strict=True)
        ):
            row = self._job(whole.kind, f"{whole.name}, part {number + 1} of 3", status, age=9, progress=progress,
                            spec=part.model_dump(mode="json"))  # fmt: skip
            row.parent_id = whole.id
        return whole

    def _workers(self) -> None:
        for name, queues, refusal in (
            ("gpu-1:4711", ["gpu", "cpu"], None),
            ("desk-3:90", ["quick"], None),
            ("gpu-2:35", ["gpu", "cpu", "quick"],
             "This worker is Tastemaker 0.0.9 and knows the database up to revision 0009; the database is at 0011, "
             "of a newer version. Upgrade this worker."),
        ):  # fmt: skip
            self.session.add(
                Worker(
                    name=name,
                    version="0.0.9" if refusal else "0.1.0",
                    queues=queues,
                    concurrency=1,
                    refusal=refusal,
                    started_at=self._ago(90),
                    seen_at=self.now,
                )
            )

    def _reward_model(self, campaign: Campaign) -> RewardModel:
        lines = self.blobs.put(b'{"choice": "left"}\n')
        snapshot = LabelSnapshot(campaign_id=campaign.id, sha256=lines, n_labels=168, created_at=self._ago(70))
        self.session.add(snapshot)
        job = self._job(JobKind.REWARD_MODEL, "Reward from First taste", JobStatus.SUCCEEDED, age=70,
                        spec={"campaign_id": str(campaign.id)})  # fmt: skip
        self.session.flush()
        row = RewardModel(
            job_id=job.id, campaign_id=campaign.id, snapshot_id=snapshot.id, name="Reward from First taste",
            encoder="efficientnet-lite0", blob_sha256=lines, n_labels=168, accuracy=0.86, accuracy_low=0.8,
            accuracy_high=0.91, human_ceiling=0.93, ece=0.041, created_at=self._ago(69),
            report={
                "n_heldout": 152, "seconds": 21.4,
                "calibration": [
                    {"p": 0.08, "freq": 0.1, "n": 34.0}, {"p": 0.29, "freq": 0.35, "n": 25.0},
                    {"p": 0.51, "freq": 0.46, "n": 28.0}, {"p": 0.72, "freq": 0.69, "n": 29.0},
                    {"p": 0.93, "freq": 0.91, "n": 36.0},
                ],
                "learning_curve": [
                    {"n_train": 30.0, "accuracy": 0.68}, {"n_train": 60.0, "accuracy": 0.77},
                    {"n_train": 110.0, "accuracy": 0.84}, {"n_train": 152.0, "accuracy": 0.86},
                ],
            },
        )  # fmt: skip
        self.session.add(row)
        self.session.flush()
        job.result = {"reward_model_id": str(row.id), "accuracy": 0.86}
        return row


def _warmer(image: Image.Image, share: float) -> Image.Image:
    """The image with red raised and blue lowered: what a finetune toward warmth looks like."""
    red, green, blue = image.split()
    return Image.merge(
        "RGB",
        (
            red.point(lambda value: value + (255 - value) * 0.45 * share),
            green.point(lambda value: value * (1 - 0.12 * share)),
            blue.point(lambda value: value * (1 - 0.5 * share)),
        ),
    )
