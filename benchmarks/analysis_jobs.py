"""How long analyses of the bundled model take, each run as a job from spec to document, and whether they repeat:
`python -m benchmarks.analysis_jobs [--n 1000] [--steps 40] [--kind diversity ...] [--json] [--out FILE]`.

The second checkpoint is the bundled one with its weights disturbed, which costs what a finetuned one costs; the age
classifier is one of random weights of the hub's architecture, judging one checkpoint. Every kind starts on a fresh data
folder, so the samples that it needs are drawn within its time; `again` runs the same spec a second time, and `same`
says whether the document came out with the same hash. A third run is cancelled after its first batch.

CPU seconds are of all threads, `others` those that the rest of the machine took meanwhile: with none of them, both
clocks would agree but for the phases of one thread. `silence` is the longest time without a new progress event.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import torch
from sqlalchemy import select
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from app.adapters.checkpoint_store import store_folder, validate_folder
from app.config import Settings
from app.db.migrate import migrate
from app.db.models import Checkpoint, Job, JobEvent
from app.db.queries import jobs as queries
from app.db.queries.jobs import Claim
from app.domain.bundled import BUNDLED
from app.domain.enums import CheckpointKind, EventKind, JobKind, JobStatus
from worker.jobs.child import run_attempt
from worker.jobs.runtime import Runtime, open_runtime
from worker.ml.policy import load_policy, save_policy
from worker.ml.rewards.age import AGE_CLASSES, FOLDER

KINDS: dict[str, dict[str, Any]] = {
    "reward_trajectory": {"rewards": [{"name": "jpeg_compressibility"}, {"name": "brightness"}]},
    "embedding_map": {"rewards": [{"name": "brightness"}]},
    "diversity": {},
    "age_distribution": {},
}
_ONE_CHECKPOINT = ("reward_trajectory", "age_distribution")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the JSON there, after every kind")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "model": "critters-64",
        "n": arguments.n,
        "steps": arguments.steps,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kinds": {},
    }
    columns = ("kind", "checkpoints", "seconds", "cpu_seconds", "others_cpu_seconds", "again_seconds", "same")
    columns += ("silence_seconds", "cancel_seconds", "load_average", "peak_mb")
    print(" ".join(f"{column:>18}" for column in columns))
    for kind in arguments.kind or KINDS:
        row = measure(kind, n=arguments.n, steps=arguments.steps)
        report["kinds"][kind] = row
        print(" ".join(f"{value!s:>18}" for value in [kind, *(row[column] for column in columns[1:])]), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(report))


def measure(kind: str, *, n: int, steps: int) -> dict[str, Any]:
    """Seconds of one analysis on a fresh installation, of the same one again, and of a cancel in the middle."""
    with tempfile.TemporaryDirectory() as folder:
        weights = age_weights(Path(folder) / "weights") if kind == "age_distribution" else None
        runtime = open_runtime(Settings(mode="demo", data_dir=Path(folder), device="cpu", weights_dir=weights))
        migrate(runtime.database)
        checkpoints = [add_checkpoint(runtime, BUNDLED["critters-64"], "critters-64")]
        if kind not in _ONE_CHECKPOINT:
            checkpoints.append(add_checkpoint(runtime, disturbed(Path(folder) / "other"), "disturbed"))
        spec = {"kind": kind, "checkpoint_ids": checkpoints, "n": n, "steps": steps, **KINDS[kind]}
        cpu_before, machine_before = time.process_time(), machine_cpu_seconds()
        first, seconds = run(runtime, spec)
        cpu_seconds, machine_seconds = time.process_time() - cpu_before, machine_cpu_seconds() - machine_before
        load_average = os.getloadavg()[1]
        again, again_seconds = run(runtime, spec)
        cancel_seconds = cancel(runtime, {**spec, "seed": 5_000_000, "n": 1000})
        silence, same = longest_silence(runtime, first), document_of(runtime, first) == document_of(runtime, again)
        runtime.database.dispose()
    return {
        "checkpoints": len(checkpoints),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "others_cpu_seconds": round(machine_seconds - cpu_seconds, 1),
        "again_seconds": round(again_seconds, 1),
        "same": same,
        "silence_seconds": round(silence, 1),
        "cancel_seconds": round(cancel_seconds, 1),
        "load_average": round(load_average, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def run(runtime: Runtime, spec: dict[str, Any]) -> tuple[UUID, float]:
    """The job, and the seconds that it took."""
    claim = claim_of(runtime, spec)
    started = time.monotonic()
    run_attempt(runtime, claim)
    seconds = time.monotonic() - started
    done = job_of(runtime, claim.job_id)
    assert done.status is JobStatus.SUCCEEDED, done.error
    return done.id, seconds


def cancel(runtime: Runtime, spec: dict[str, Any]) -> float:
    """Seconds from a cancel, asked for once the job has shown progress, to its end."""
    claim = claim_of(runtime, spec)
    attempt = threading.Thread(target=run_attempt, args=(runtime, claim))
    attempt.start()
    while job_of(runtime, claim.job_id).progress == 0:
        time.sleep(0.2)
    with runtime.database.writer() as session:
        session.get_one(Job, claim.job_id).cancel_requested = True
    asked = time.monotonic()
    attempt.join()
    assert job_of(runtime, claim.job_id).status is JobStatus.CANCELLED
    return time.monotonic() - asked


def claim_of(runtime: Runtime, spec: dict[str, Any]) -> Claim:
    with runtime.database.writer() as session:
        job = Job(kind=JobKind.ANALYZE, name="benchmark", spec=spec, created_at=datetime.now(UTC))
        session.add(job)
    with runtime.database.writer() as session:
        claim = queries.claim(session, job.id, worker="benchmark", now=datetime.now(UTC))
    assert claim is not None
    return claim


def job_of(runtime: Runtime, job_id: UUID) -> Job:
    with runtime.database.reader() as session:
        return session.get_one(Job, job_id)


def document_of(runtime: Runtime, job_id: UUID) -> str:
    """The hash of the job's document."""
    return str(job_of(runtime, job_id).result["analysis_sha256"])


def longest_silence(runtime: Runtime, job_id: UUID) -> float:
    """Seconds between two progress events, the start and the end of the job among them, at most."""
    job = job_of(runtime, job_id)
    told = select(JobEvent.created_at).where(JobEvent.job_id == job_id, JobEvent.kind == EventKind.PROGRESS)
    with runtime.database.reader() as session:
        times = [job.started_at, *session.scalars(told.order_by(JobEvent.seq)), job.finished_at]
    return max((later - earlier).total_seconds() for earlier, later in pairwise(times))


def machine_cpu_seconds() -> float:
    """What all processes of the machine have computed since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def age_weights(folder: Path) -> Path:
    """A weights folder with an untrained age classifier: ViT-B/16 at 224 pixels, as on the hub."""
    labels = dict(enumerate(AGE_CLASSES))
    config = ViTConfig(id2label=labels, label2id={name: index for index, name in labels.items()})
    ViTForImageClassification(config).save_pretrained(folder / FOLDER)
    ViTImageProcessor().save_pretrained(folder / FOLDER)
    return folder


def add_checkpoint(runtime: Runtime, folder: Path, name: str) -> str:
    with runtime.database.writer() as session:
        checkpoint = Checkpoint(
            name=name,
            kind=CheckpointKind.BASE,
            source="benchmark",
            manifest_sha256=store_folder(runtime.blobs, folder),
            image_size=validate_folder(folder).image_size,
            created_at=datetime.now(UTC),
        )
        session.add(checkpoint)
    return str(checkpoint.id)


def disturbed(folder: Path) -> Path:
    """The bundled model with 1 % of noise on its weights."""
    policy = load_policy(BUNDLED["critters-64"])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.unet.parameters():
            parameter += 0.01 * parameter.std().nan_to_num() * torch.randn(parameter.shape, generator=generator)
    save_policy(policy, folder)
    return folder


if __name__ == "__main__":
    main()
