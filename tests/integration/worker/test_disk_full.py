"""A disk that fills up while a finetune writes: a sentence, nothing half, and the same weights once there is room."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from app.config import Settings
from app.db.models import Checkpoint, Job
from app.db.queries import jobs as queries
from app.domain.enums import JobKind, JobStatus
from app.services import doctor
from tests.integration.worker.conftest import add_base
from worker.jobs.child import is_disk_full, run_attempt
from worker.jobs.runtime import Runtime, open_runtime

EPOCHS = 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that can be made larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"may not mount a file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def resize(disk: Path, n_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={n_bytes}", disk], check=True)


def used(folder: Path) -> int:
    return int(subprocess.check_output(["du", "--summarize", "--block-size=1", folder]).split()[0])


def runtime_in(folder: Path, blobs: Path, template: Path) -> Runtime:
    folder.mkdir()
    shutil.copy(template, folder / "tastemaker.sqlite3")
    settings = Settings(
        mode="demo", data_dir=folder, blob_url=str(blobs), device="cpu", worker_concurrency=64,
        broker_url=SecretStr("memory://"),
    )  # fmt: skip
    return open_runtime(settings)


def add_finetune(runtime: Runtime, base: Checkpoint) -> UUID:
    spec = {
        "checkpoint_id": str(base.id), "reward": [{"name": "brightness"}], "epochs": EPOCHS, "samples_per_epoch": 8,
        "steps": 6, "batch_size": 16, "updates_per_epoch": 1, "lr": {"peak": 1e-3}, "eval": {"every": 1, "n": 4},
    }  # fmt: skip
    with runtime.database.writer() as session:
        job = Job(kind=JobKind.FINETUNE, name="on a small disk", spec=spec, created_at=datetime.now(UTC))
        session.add(job)
    return job.id


def attempt(runtime: Runtime, job_id: UUID) -> Job:
    with runtime.database.writer() as session:
        claim = queries.claim(session, job_id, worker="test", now=runtime.clock.now())
    assert claim is not None
    run_attempt(runtime, claim)
    with runtime.database.reader() as session:
        return session.get_one(Job, job_id)


def weights(runtime: Runtime, job_id: UUID) -> dict[Any, str]:
    with runtime.database.reader() as session:
        rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id))
        return {row.epoch: row.manifest_sha256 for row in rows}


def test_a_finetune_on_a_full_disk_says_so_and_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path, tiny_model: Path, sqlite_template: Path
) -> None:
    roomy = runtime_in(tmp_path / "roomy", tmp_path / "roomy" / "blobs", sqlite_template)
    undisturbed = add_finetune(roomy, add_base(roomy, tiny_model))
    before = used(tmp_path / "roomy" / "blobs")
    assert attempt(roomy, undisturbed).status is JobStatus.SUCCEEDED
    grown = used(tmp_path / "roomy" / "blobs") - before

    runtime = runtime_in(tmp_path / "data", small_disk / "blobs", sqlite_template)
    job_id = add_finetune(runtime, add_base(runtime, tiny_model))
    resize(small_disk, used(small_disk) + grown * 3 // 4)
    failed = attempt(runtime, job_id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error.startswith("The disk is full.")
    assert os.strerror(errno.ENOSPC) in failed.error
    assert failed.resume_sha256 is not None, "what was saved before is not lost"
    saved = weights(runtime, job_id)
    assert len(saved) < EPOCHS
    assert doctor.examine(runtime.database, runtime.blobs).problems == []

    resize(small_disk, 64_000_000)
    with runtime.database.writer() as session:
        queries.requeue(session, job_id, runtime.clock.now(), message="There is room again.")
    assert attempt(runtime, job_id).status is JobStatus.SUCCEEDED
    assert weights(runtime, job_id) == weights(roomy, undisturbed)
    assert weights(runtime, job_id).items() >= saved.items()
    assert doctor.examine(runtime.database, runtime.blobs).problems == []


def test_a_full_disk_is_known_by_its_error_however_it_is_wrapped() -> None:
    with pytest.raises(OSError, match="No space") as full, open("/dev/full", "wb", buffering=0) as device:
        device.write(b"x")
    assert is_disk_full(full.value)
    wrapped = RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)")
    assert is_disk_full(wrapped)
    outer = ValueError("could not save")
    outer.__cause__ = full.value
    assert is_disk_full(outer)
    assert not is_disk_full(PermissionError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(RuntimeError("shapes do not match"))
