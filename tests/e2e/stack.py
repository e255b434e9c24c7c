"""A web server over a world of its own, and a browser that may speak to nothing else."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import uvicorn
from playwright.sync_api import Browser, Playwright

from app.adapters.blobs import BlobStore
from app.adapters.clock import SystemClock
from app.config import Settings
from app.db.migrate import migrate
from app.db.session import Database
from app.domain.enums import Role
from app.main import create_app
from app.services import accounts
from tests.e2e.world import World, build_world

_CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass(frozen=True)
class Site:
    """A running server, its database and what is in it."""

    url: str
    database: Database
    world: World
    settings: Settings

    def login_link(self, name: str, role: Role) -> str:
        """The address of a one-time link that signs a browser in as this user, made if there is none yet."""
        return login_link(self.url, self.database, name, role)


def login_link(url: str, database: Database, name: str, role: Role) -> str:
    """A one-time sign-in link of whatever runs at `url` over this database."""
    now = SystemClock().now()
    with database.writer() as session:
        user = accounts.ensure_user(session, name, role, now)
        secret = accounts.create_login_token(session, user, now, valid_for=timedelta(hours=1))
    return f"{url}/login?token={secret}"


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Serve a fresh world from `folder` on a free port of this machine until the block ends."""
    settings = Settings(
        mode="demo",
        data_dir=folder,
        broker_url="redis://127.0.0.1:1/0",  # type: ignore[arg-type]  # no worker is needed: a broker that is away
    )
    database = Database(settings.sqlalchemy_url)
    migrate(database)
    with database.writer() as session:
        world = build_world(session, BlobStore(settings.blob_root), SystemClock().now())
    try:
        with serving(settings) as url:
            yield Site(url, database, world, settings)
    finally:
        database.dispose()


@contextmanager
def serving(settings: Settings, port: int = 0) -> Iterator[str]:
    """The web server alone, over what is there, until the block ends; port 0 is any free one. Gives its address."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()  # a browser that comes before the server is up waits instead of being refused
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)


def launch(playwright: Playwright) -> Browser:
    """Chromium: the distribution's where it is installed, else the test tool's own."""
    path = str(_CHROMIUM) if _CHROMIUM.exists() else None
    return playwright.chromium.launch(executable_path=path, args=_FLAGS)
