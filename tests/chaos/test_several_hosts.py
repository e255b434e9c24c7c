"""Web and two workers as three hosts: PostgreSQL, broker and bucket are all they share, and one host dies at work."""

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psutil
from PIL import Image
from sqlalchemy import select

from app.adapters.blobs import BlobStore
from app.db.migrate import migrate
from app.db.models import Checkpoint, Job, JobEvent
from app.domain.enums import EventKind, JobStatus, Role
from app.services import doctor
from tests.chaos.parts import Deployment
from tests.chaos.people import Operator
from tests.chaos.test_chaos import EPOCHS, finetune_spec, token
from tests.object_store import ObjectStore


class Hosts(Deployment):
    """`web`, `north` and `south` have each a home, a data folder and a scratch folder of their own."""

    WORKERS = ("north", "south")

    def __init__(self, folder: Path, sockets: Path, postgres: Path, store: ObjectStore) -> None:
        super().__init__(folder, sockets, postgres)
        url = f"s3://{store.new_bucket()}/tastemaker"
        self.environment |= {
            "TASTEMAKER_BLOB_URL": url,
            "TASTEMAKER_BLOB_ENDPOINT_URL": store.url,
            "TASTEMAKER_WORKER_CONCURRENCY": "1",
        }
        self.blobs = BlobStore(url, endpoint_url=store.url)
        self._scratch = {host: Path(tempfile.mkdtemp(prefix=f"tm-{host}-")) for host in ("web", *self.WORKERS)}

    def data(self, host: str) -> Path:
        """The host's TASTEMAKER_DATA_DIR."""
        return self.folder / host / "data"

    def start_host(self, host: str) -> None:
        home, scratch = self.folder / host, self._scratch[host]  # Unix sockets lie in scratch: its path must be short
        self.data(host).mkdir(parents=True, exist_ok=True)
        own = {"HOME": home, "XDG_CACHE_HOME": home / "cache", "HF_HOME": home / "cache", "TMPDIR": scratch}
        own["TASTEMAKER_DATA_DIR"] = self.data(host)
        command = [sys.executable, "-m", "app.cli", "serve" if host == "web" else "worker"]
        self._spawn(host, command, env=self.environment | {name: str(path) for name, path in own.items()})

    def kill_host(self, host: str) -> None:
        """A power cut: signal 9 to the worker and whatever it has started, in one moment."""
        worker = psutil.Process(self._processes[host].pid)
        for process in [worker, *worker.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._processes[host].wait()

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        self._until(what, holds, seconds=150)  # a worker's imports alone can take a minute on a busy machine

    def host_of(self, job: Job) -> str | None:
        """Which worker holds the job, or held it last."""
        pid = int((job.worker or ":0").rpartition(":")[2])
        return next((host for host, process in self._processes.items() if process.pid == pid), None)

    def stop(self) -> None:
        super().stop()
        for folder in self._scratch.values():
            shutil.rmtree(folder)


@contextmanager
def hosts(folder: Path, store: ObjectStore) -> Iterator[Hosts]:
    sockets, postgres = Path(tempfile.mkdtemp(prefix="tm-")), Path(tempfile.mkdtemp(prefix="tastemaker-postgres-"))
    parts = Hosts(folder, sockets, postgres, store)
    try:
        parts.start("database")
        migrate(parts.database)
        parts.start("broker")
        parts.start_host("north")
        parts.start_host("web")
        parts.wait_until_ready()
        yield parts
    finally:
        parts.stop()
        for leftover in (sockets, postgres):
            shutil.rmtree(leftover, ignore_errors=True)


def test_a_host_dies_at_work_and_another_goes_on_from_what_is_in_the_bucket(
    tmp_path: Path, tiny_model: Path, object_store: ObjectStore
) -> None:
    with hosts(tmp_path, object_store) as parts:
        operator = Operator(parts.url, token(parts, "operator", Role.ADMIN))
        shutil.copytree(tiny_model, parts.data("web") / "models" / "tiny")
        base = operator.post("/checkpoints", {"name": "tiny", "source": "tiny"})["id"]
        drawn = operator.submit("sample", {"checkpoint_id": base, "n": 8, "steps": 5}, "samples")
        finetune = operator.submit("finetune", finetune_spec(base), "a finetune")

        def row(job_id: str) -> Job:
            with parts.database.reader() as session:
                return session.get_one(Job, UUID(job_id))

        parts.until("the finetune begins", lambda: row(finetune).status is JobStatus.RUNNING)
        parts.start_host("south")
        parts.until("a state of it is in the bucket", lambda: row(finetune).resume_sha256 is not None)
        assert parts.host_of(row(drawn)) == parts.host_of(row(finetune)) == "north"
        parts.kill_host("north")
        assert row(finetune).status is JobStatus.RUNNING

        jobs = [operator.finish(job_id, seconds=150) for job_id in (drawn, finetune)]
        assert [job["status"] for job in jobs] == ["succeeded", "succeeded"], jobs
        assert parts.host_of(row(finetune)) == "south"
        with parts.database.reader() as session:
            events = session.scalars(select(JobEvent).where(JobEvent.job_id == UUID(finetune)).order_by(JobEvent.seq))
            epochs = [event.payload["epoch"] for event in events if event.kind is EventKind.METRICS]
            saved = session.scalars(select(Checkpoint).where(Checkpoint.job_id == UUID(finetune))).all()
        assert sorted(set(epochs)) == list(range(EPOCHS + 1))
        assert epochs.count(1) == 1, "the second host began at the state that the first had saved, not from the start"

        for checkpoint_id in (base, *(str(checkpoint.id) for checkpoint in saved)):
            samples = operator.get("/samples", checkpoint_id=checkpoint_id)["items"]
            assert samples
            for sample in samples:
                answer = operator.http.get(f"/samples/{sample['id']}/image", params={"format": "png"})
                assert Image.open(io.BytesIO(answer.content)).size == (16, 16)
        assert doctor.examine(parts.database, parts.blobs).problems == []
        assert not list(tmp_path.rglob("blobs")), "no host kept a blob store of its own"
