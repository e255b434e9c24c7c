"""The embedded default as `make demo` runs it, in real processes: SQLite, Valkey, a web process and a worker."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.cli.valkey import valkey_program, wait_for_valkey
from app.config import Settings
from app.db.migrate import migrate
from app.db.session import Database
from app.domain.enums import Role
from tests.e2e.stack import login_link

_REPOSITORY = Path(__file__).parents[2]


class Embedded:
    """`database` and `settings` are those of the processes; the worker can be killed and started again."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        settings = {
            "MODE": "demo", "SECRET_KEY": secrets.token_urlsafe(48), "DATA_DIR": str(folder), "PORT": str(port),
            "BROKER_URL": f"redis+socket://{sockets / 'valkey.sock'}", "DEVICE": "cpu", "SAMPLE_BATCH_SIZE": "4",
            "WORKER_CONCURRENCY": "64",  # one thread a job: tiny tensors gain nothing from more
        }  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASTEMAKER_")}
        self._environment = kept | {f"TASTEMAKER_{name}": value for name, value in settings.items()}
        self._environment |= {"OMP_NUM_THREADS": "1"}
        self.settings = Settings(**{name.lower(): value for name, value in settings.items()})  # type: ignore[arg-type]
        migrate(database := Database(self.settings.sqlalchemy_url))
        self.database = database
        program = valkey_program(sockets / "valkey.sock", folder / "valkey", folder / "valkey.log")
        self._processes = {"valkey": self._spawn("valkey", list(program.command))}
        wait_for_valkey(sockets / "valkey.sock")
        self._processes["web"] = self._spawn("web", [sys.executable, "-m", "app.cli", "serve"])
        self.start_worker()
        self._wait_for_web()

    def login_link(self, name: str, role: Role) -> str:
        return login_link(self.url, self.database, name, role)

    def start_worker(self) -> None:
        self._processes["worker"] = self._spawn("worker", [sys.executable, "-m", "app.cli", "worker"])

    def kill_worker(self) -> None:
        """Signal 9: it can say nothing to anybody."""
        self._processes["worker"].kill()
        self._processes["worker"].wait()

    def log(self, part: str) -> str:
        return (self.folder / f"{part}.log").read_text(errors="replace")

    def stop(self) -> None:
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.database.dispose()

    def _spawn(self, part: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{part}.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=_REPOSITORY, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_for_web(self, *, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, self.log("web")
            time.sleep(0.05)


@contextmanager
def embedded(folder: Path) -> Iterator[Embedded]:
    """Everything runs, over an empty `folder`, until the block ends."""
    folder.mkdir(parents=True)
    sockets = Path(tempfile.mkdtemp(prefix="tm-"))  # a Unix socket's path must be short
    parts = Embedded(folder, sockets)
    try:
        yield parts
    finally:
        parts.stop()
        shutil.rmtree(sockets)
