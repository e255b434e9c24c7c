"""A real broker, a real Celery worker process and a tiny model, shared by this folder's tests."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from app.adapters.blobs import BlobStore
from app.adapters.checkpoint_store import store_folder, validate_folder
from app.adapters.queue import JobQueue
from app.cli.valkey import valkey_program, wait_for_valkey
from app.config import Settings
from app.db.models import Checkpoint, Job
from app.db.queries import jobs as queries
from app.db.session import Database
from app.domain.enums import CheckpointKind, JobKind, JobStatus, WorkQueue
from worker.jobs.runtime import Runtime
from worker.ml.policy import Policy, save_policy

REPOSITORY = Path(__file__).parents[3]


@dataclass
class Broker:
    """A Valkey server that can be taken away and brought back."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "valkey.sock"

    def start(self) -> None:
        program = valkey_program(self.socket, self.folder, self.folder / "valkey.log")
        with program.log.open("ab") as log:
            self.process = subprocess.Popen(program.command, stdout=log, stderr=log)
        wait_for_valkey(self.socket)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=20)
            self.process = None


@dataclass
class Stack:
    """Everything that a deployment has but the web process."""

    settings: Settings
    environment: dict[str, str]
    broker: Broker
    log: Path
    database: Database = field(init=False)
    blobs: BlobStore = field(init=False)
    queue: JobQueue = field(init=False)
    worker: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.database = Database(self.settings.sqlalchemy_url)
        self.blobs = BlobStore(self.settings.blob_root)
        self.queue = JobQueue(self.settings.celery_broker_url)

    def start_worker(self) -> None:
        self.worker = self.spawn_worker(self.settings.worker_queues)

    def spawn_worker(self, queues: Collection[WorkQueue], log: Path | None = None) -> subprocess.Popen[bytes]:
        """A worker for these queues, as the operating system has it (it takes seconds to come up)."""
        environment = self.environment | {"TASTEMAKER_WORKER_QUEUES": ",".join(queues)}
        with (log or self.log).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "app.cli", "worker"],
                cwd=REPOSITORY,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def kill_worker(self) -> None:
        """What a power cut or an out-of-memory killer does to the worker."""
        assert self.worker is not None
        self.worker.kill()
        self.worker.wait()

    def stop_worker(self) -> None:
        """Shut down in order; the worker has half a minute."""
        assert self.worker is not None
        self.worker.send_signal(signal.SIGTERM)
        self.worker.wait(timeout=30)

    def add_job(self, kind: JobKind, spec: dict[str, Any], *, send: bool = True, **columns: Any) -> UUID:
        """Queue a job as the web process does: the row first, the message after the commit."""
        now = datetime.now(UTC)
        with self.database.writer() as session:
            job = Job(kind=kind, name=f"test {kind.value}", spec=spec, created_at=now, **columns)
            session.add(job)
            session.flush()
            job.sent_at = now if send else None
        if send:
            self.queue.send(job.queue, kind, job.id)
        return job.id

    def job(self, job_id: UUID) -> Job:
        with self.database.reader() as session:
            job = queries.get_job(session, job_id)
        assert job is not None
        return job

    def wait_for(self, job_id: UUID, arrived: Callable[[Job], bool], *, seconds: float = 120.0) -> Job:
        """The job once `arrived` holds; fails with the end of the worker's log after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if arrived(job):
                return job
            time.sleep(0.05)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])
        pytest.fail(f"job still {job.status}, progress {job.progress}, error {job.error!r}; the worker's log:\n{tail}")

    def finish(self, job_id: UUID, *, seconds: float = 120.0) -> Job:
        """The job once it has succeeded."""
        job = self.wait_for(job_id, lambda job: job.status.is_final, seconds=seconds)
        assert job.status is JobStatus.SUCCEEDED, job.error
        return job


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a 16x16 model with random weights: a forward pass takes about a millisecond."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_policy(Policy(unet.eval(), dict(DDPMScheduler(num_train_timesteps=1000).config)), folder)
    return folder


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Stack]:
    """One for each file: which files a test process gets, and in what order, is chance."""
    data = tmp_path_factory.mktemp("stack")
    shutil.copy(sqlite_template, data / "tastemaker.sqlite3")
    sockets = Path(tempfile.mkdtemp(prefix="tm-"))  # a Unix socket's path must be short
    environment = {
        "TASTEMAKER_MODE": "demo",
        "TASTEMAKER_DATA_DIR": str(data),
        "TASTEMAKER_BROKER_URL": f"redis+socket://{sockets / 'valkey.sock'}",
        "TASTEMAKER_DEVICE": "cpu",
        "TASTEMAKER_SAMPLE_BATCH_SIZE": "4",
        "OMP_NUM_THREADS": "1",  # tiny tensors gain nothing from more
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings = Settings()
    broker = Broker(sockets)
    broker.start()
    stack = Stack(settings, os.environ | environment, broker, data / "worker.log")
    stack.start_worker()
    yield stack
    if stack.worker is not None and stack.worker.poll() is None:
        stack.kill_worker()
    stack.database.dispose()
    broker.stop()
    shutil.rmtree(sockets)


def add_base(stack: "Stack | Runtime", folder: Path) -> Checkpoint:
    """Register a folder as a base checkpoint."""
    with stack.database.writer() as session:
        checkpoint = Checkpoint(
            name="tiny",
            kind=CheckpointKind.BASE,
            source="test",
            manifest_sha256=store_folder(stack.blobs, folder),
            image_size=validate_folder(folder).image_size,
            created_at=datetime.now(UTC),
        )
        session.add(checkpoint)
    return checkpoint


@pytest.fixture
def tiny_checkpoint(stack: Stack, tiny_model: Path) -> Checkpoint:
    """A base checkpoint of its own for every test, so that none sees another's samples."""
    return add_base(stack, tiny_model)
