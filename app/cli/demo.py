"""`make demo`: the whole product on one machine, from an empty folder to a page that can be rated."""

import fcntl
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.adapters.clock import SystemClock
from app.cli.processes import Program, Supervisor
from app.cli.valkey import valkey_program, wait_for_valkey
from app.client.client import TastemakerClient
from app.config import Settings
from app.db.migrate import migrate
from app.db.session import Database
from app.domain.enums import Role
from app.domain.errors import TastemakerError
from app.services import accounts

_MIN_FREE_BYTES = 500_000_000
_FIRST_SAMPLES = 64
_DEMO_STEPS = 20
_OWNER = "demo"

console = Console(highlight=False)


def run_demo() -> None:
    """Start everything, prepare the first campaign, print the address, and stay until Ctrl-C."""
    started = time.monotonic()
    settings = _prepare_settings()
    with _only_one(settings.data_dir), _termination_is_interrupt():
        supervisor = Supervisor(os.environ)
        try:
            _start_parts(settings, supervisor)
            url = _prepare_first_campaign(settings)
            console.print(
                f"\n[bold]Tastemaker is ready[/bold] after {time.monotonic() - started:.0f} s. Open this once:\n"
            )
            console.print(f"  [bold]{url}[/bold]\n", soft_wrap=True)
            console.print(f"Everything is kept in {settings.data_dir}. Press Ctrl-C to stop.")
            while True:
                time.sleep(1)
                for message in supervisor.restart_ended():
                    console.print(f"[yellow]{message}[/yellow]")
        except KeyboardInterrupt:
            console.print("\nStopping ...")
        finally:
            # a second Ctrl-C must not leave anything behind
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            supervisor.stop()
    console.print("Stopped. Run `make demo` to go on where you left off.")


def _prepare_settings() -> Settings:
    os.environ["TASTEMAKER_MODE"] = "demo"
    settings = Settings()
    data_dir = settings.data_dir.absolute()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / ".writable"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise TastemakerError(f"Cannot write to {data_dir} ({error.strerror}); set TASTEMAKER_DATA_DIR.") from error
    free = shutil.disk_usage(data_dir).free
    if free < _MIN_FREE_BYTES:
        raise TastemakerError(
            f"Only {free / 1e6:.0f} MB are free on the disk of {data_dir}; the demo needs "
            f"{_MIN_FREE_BYTES / 1e6:.0f} MB. Free some, or set TASTEMAKER_DATA_DIR to another disk."
        )
    _check_port(settings.port)
    os.environ.update(
        TASTEMAKER_DATA_DIR=str(data_dir),
        TASTEMAKER_HOST="127.0.0.1",
        TASTEMAKER_SECRET_KEY=_secret_key(data_dir),
    )
    return Settings()


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TastemakerError(
                f"Port {port} is taken by another program. Stop it, or choose another: "
                f"TASTEMAKER_PORT={port + 1} make demo"
            ) from error


def _secret_key(data_dir: Path) -> str:
    path = data_dir / "secret-key"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(48))
    return path.read_text()


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    with (data_dir / ".demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TastemakerError(
                f"A demo already runs on {data_dir}; stop it first, or set TASTEMAKER_DATA_DIR to another folder."
            ) from error
        yield


@contextmanager
def _termination_is_interrupt() -> Iterator[None]:
    """Stop as cleanly on SIGTERM and a closed terminal as on Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a background shell starts us with SIGINT ignored
    previous = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _start_parts(settings: Settings, supervisor: Supervisor) -> None:
    logs = settings.data_dir / "logs"
    with console.status("Preparing the database ..."):
        database = Database(settings.sqlalchemy_url)
        migrate(database)
        database.dispose()
    with console.status("Starting broker, worker and web page ..."):
        if settings.broker_url is None:
            folder = settings.data_dir / "valkey"
            supervisor.start(valkey_program(settings.valkey_socket, folder, logs / "valkey.log"))
            wait_for_valkey(settings.valkey_socket)
        this = [sys.executable, "-m", "app.cli"]
        supervisor.start(Program("worker", [*this, "worker"], logs / "worker.log"))
        supervisor.start(Program("web", [*this, "serve"], logs / "web.log"))
        _wait_for_web(settings, supervisor, logs / "web.log")


def _wait_for_web(settings: Settings, supervisor: Supervisor, log: Path, *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{settings.port}/healthz", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if supervisor.exit_code("web") is not None:
            break
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise TastemakerError(f"The web process did not start. The end of {log}:\n{tail}")


def _prepare_first_campaign(settings: Settings) -> str:
    """Register the bundled model, draw its first samples and open a campaign on them, each unless it is there."""
    clock = SystemClock()
    database = Database(settings.sqlalchemy_url)
    with database.writer() as session:
        owner = accounts.ensure_user(session, _OWNER, Role.ADMIN, clock.now())
        _, secret = accounts.create_token(
            session, owner, name="demo start", role=Role.ADMIN, now=clock.now(),
            expires_at=clock.now() + timedelta(minutes=30),
        )  # fmt: skip
        login = accounts.create_login_token(session, owner, clock.now(), valid_for=timedelta(days=1))
    with TastemakerClient(f"http://127.0.0.1:{settings.port}", secret) as client:
        checkpoint = client.ensure_base("critters-64")
        if not client.list_campaigns():
            _draw_with_progress(client, checkpoint["id"])
            client.create_campaign(
                name="First taste",
                question="Which critter do you like better?",
                guidelines="Trust your first impression. There is no wrong answer; skip when you have none.",
                checkpoint_ids=[checkpoint["id"]],
                open=True,
            )
    with database.writer() as session:
        accounts.revoke_token(session, secret, clock.now())
    database.dispose()
    return f"http://127.0.0.1:{settings.port}/login?token={login}"


def _draw_with_progress(client: TastemakerClient, checkpoint_id: str) -> None:
    job = client.submit_job(
        "sample", {"checkpoint_id": checkpoint_id, "n": _FIRST_SAMPLES, "steps": _DEMO_STEPS}, name="First samples"
    )
    columns = (
        TextColumn("Drawing the first samples"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=1.0)

        def show(state: dict[str, Any]) -> None:
            progress.update(task, completed=state["progress"])

        client.wait_for_job(job["id"], on_update=show)
