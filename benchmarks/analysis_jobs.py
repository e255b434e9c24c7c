"""How long analyses of the bundled model take, each run as a job from spec to document, and whether they repeat:
`python -m benchmarks.analysis_jobs [--n 1000] [--steps 40] [--kind diversity ...] [--json] [--out FILE]`.

The second checkpoint is the bundled one with its weights disturbed, which costs what a finetuned one costs. Every kind
starts on a fresh data folder, so the samples that it needs are drawn within its time; `again` runs the same spec a
second time, and `same` says whether the document came out with the same hash. CPU seconds are of all threads: on a
machine that does other things as well they say more than the clock.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from app.adapters.checkpoint_store import store_folder, validate_folder
from app.config import Settings
from app.db.migrate import migrate
from app.db.models import Checkpoint, Job
from app.db.queries import jobs as queries
from app.domain.bundled import BUNDLED
from app.domain.enums import CheckpointKind, JobKind, JobStatus
from worker.jobs.child import run_attempt
from worker.jobs.runtime import Runtime, open_runtime
from worker.ml.policy import load_policy, save_policy

KINDS: dict[str, dict[str, Any]] = {
    "reward_trajectory": {"rewards": [{"name": "jpeg_compressibility"}, {"name": "brightness"}]},
    "embedding_map": {"rewards": [{"name": "brightness"}]},
    "diversity": {},
}


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
    print(f"{'kind':>20} {'models':>7} {'seconds':>9} {'CPU s':>8} {'again':>8} {'same':>6} {'load':>6} {'peak MB':>8}")
    for kind in arguments.kind or KINDS:
        row = measure(kind, n=arguments.n, steps=arguments.steps)
        report["kinds"][kind] = row
        print(
            f"{kind:>20} {row['checkpoints']:>7} {row['seconds']:>9.1f} {row['cpu_seconds']:>8.1f} "
            f"{row['again_seconds']:>8.1f} "
            f"{'yes' if row['same'] else 'NO':>6} {row['load_average']:>6.1f} {row['peak_mb']:>8.0f}",
            flush=True,
        )
        if arguments.out:
            arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(report))


def measure(kind: str, *, n: int, steps: int) -> dict[str, Any]:
    """Seconds of one analysis on a fresh installation, and of the same one again."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = open_runtime(Settings(mode="demo", data_dir=Path(folder), device="cpu"))
        migrate(runtime.database)
        checkpoints = [add_checkpoint(runtime, BUNDLED["critters-64"], "critters-64")]
        if kind != "reward_trajectory":
            checkpoints.append(add_checkpoint(runtime, disturbed(Path(folder) / "other"), "disturbed"))
        spec = {"kind": kind, "checkpoint_ids": checkpoints, "n": n, "steps": steps, **KINDS[kind]}
        cpu_before = time.process_time()
        first, seconds = run(runtime, spec)
        cpu_seconds = time.process_time() - cpu_before
        again, again_seconds = run(runtime, spec)
        runtime.database.dispose()
    return {
        "checkpoints": len(checkpoints),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "again_seconds": round(again_seconds, 1),
        "same": first == again,
        "load_average": round(os.getloadavg()[1], 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def run(runtime: Runtime, spec: dict[str, Any]) -> tuple[str, float]:
    """The hash of the document, and the seconds it took."""
    with runtime.database.writer() as session:
        job = Job(kind=JobKind.ANALYZE, name="benchmark", spec=spec, created_at=datetime.now(UTC))
        session.add(job)
    with runtime.database.writer() as session:
        claim = queries.claim(session, job.id, worker="benchmark", now=datetime.now(UTC))
    assert claim is not None
    started = time.monotonic()
    run_attempt(runtime, claim)
    seconds = time.monotonic() - started
    with runtime.database.reader() as session:
        done = session.get_one(Job, job.id)
        assert done.status is JobStatus.SUCCEEDED, done.error
        return done.result["analysis_sha256"], seconds


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
