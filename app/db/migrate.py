"""Brings a database to the current schema."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from app.db.session import Database

MIGRATIONS_DIR = Path(__file__).resolve().parents[2] / "migrations"


def migrate(database: Database, revision: str = "head") -> None:
    """Apply every migration up to `revision`; a database that is current is left alone."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_DIR))
    with database.new_session(write=True) as session:
        connection = session.connection()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        session.commit()
