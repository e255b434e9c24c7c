"""Brings a database to the current schema."""

from functools import lru_cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.db.session import Database

MIGRATIONS_DIR = Path(__file__).resolve().parents[2] / "migrations"


def migrate(database: Database, revision: str = "head") -> None:
    """Apply every migration up to `revision`; a database that is current is left alone."""
    with database.new_session(write=True) as session:
        migrate_connection(session.connection(), revision)
        session.commit()


def migrate_connection(connection: Connection, revision: str = "head") -> None:
    """`migrate` inside the caller's transaction."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


@lru_cache(maxsize=1)
def known_revisions() -> list[str]:
    """Every migration of this version, newest first, as it was when this process first asked: an upgrade may change
    the files under a process that still runs the old code."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_DIR))
    return config
