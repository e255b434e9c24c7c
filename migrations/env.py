"""Runs migrations against the database that the settings (or the caller's connection) name."""

from typing import Any

from alembic import context
from sqlalchemy import Connection

import app.db.models  # noqa: F401  (fills the metadata)
from app.config import get_settings
from app.db.base import Base, JsonType, UtcDateTime
from app.db.session import Database


def _render(kind: str, item: Any, _context: Any) -> str | bool:
    """Spell our own column types in SQLAlchemy's terms: a migration must not change when the application does."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and item is JsonType:
        return 'sa.JSON().with_variant(postgresql.JSONB(), "postgresql")'
    return False


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        render_item=_render,
    )
    with context.begin_transaction():
        context.run_migrations()


connection: Connection | None = context.config.attributes.get("connection")
if connection is not None:
    _run(connection)
else:
    with Database(get_settings().sqlalchemy_url).engine.connect() as own:
        _run(own)
        own.commit()
