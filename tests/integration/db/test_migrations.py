"""Every migration with data in place, up from every released schema and down again, on both databases.

Rows are made from the tables as they are at each revision, so a new migration is covered without a line here.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    DateTime,
    Enum,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    create_engine,
    func,
    insert,
    select,
    text,
)

from app.db import migrate as migrations
from app.db.base import Base
from app.db.session import Database

REVISIONS = migrations.known_revisions()[::-1]
"""Oldest first."""

MAY_GO = {"0003": {"web_session"}}
"""By the migration that is undone: tables whose rows it may delete, for the reason that its `downgrade` states."""

_ALEMBIC = "alembic_version"
_NUMBERS = count(1)


@pytest.fixture
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
        yield database
        database.dispose()
        return
    url: str = request.getfixturevalue("postgres_url")
    name = f"empty_{uuid4().hex}"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    database = Database(url.replace("/postgres?", f"/{name}?"))
    yield database
    database.dispose()
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def go(connection: Connection, revision: str, move: Callable[..., None] = command.upgrade) -> None:
    config = migrations._config()
    config.attributes["connection"] = connection
    move(config, revision)


def tables_of(connection: Connection) -> dict[str, Table]:
    """As they are in the database now, parents before their children."""
    metadata = MetaData()
    metadata.reflect(connection)
    return {table.name: table for table in metadata.sorted_tables if table.name != _ALEMBIC}


def add_a_row_to_every_table(connection: Connection) -> None:
    tables = tables_of(connection)
    keys: dict[tuple[str, str], Any] = {}
    for table in tables.values():
        row = {column.name: _value(table, column, keys) for column in table.columns}
        connection.execute(insert(table).values(row))
        keys |= {(table.name, name): value for name, value in row.items()}


def _value(table: Table, column: Column[Any], keys: dict[tuple[str, str], Any]) -> Any:
    if column.foreign_keys:
        target = next(iter(column.foreign_keys)).column
        return keys.get(
            (target.table.name, target.name)
        )  # its own table's row is not there yet: then it refers to none
    if table.name == "gold_pair" and column.name.endswith("_id"):
        return uuid4().hex
    model = Base.metadata.tables.get(table.name)
    known = model.columns[column.name].type if model is not None and column.name in model.columns else column.type
    number = next(_NUMBERS)
    if isinstance(known, Enum):
        return known.enums[0]
    match column.type:
        case JSON():
            return {"number": number}
        case Boolean():
            return False
        case Integer():
            return number
        case Float() | Numeric():
            return 0.5
        case DateTime():
            return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
        case LargeBinary():
            return b"\0\0\0\0"
    if _is_uuid(known):
        return uuid4() if column.type.python_type is UUID else uuid4().hex
    return f"{column.name[:20]}-{number}"[: getattr(column.type, "length", None) or 60]


def _is_uuid(type_: Any) -> bool:
    try:
        return bool(type_.python_type is UUID)
    except NotImplementedError:
        return False


def rows_of(connection: Connection) -> dict[str, int]:
    return {name: connection.scalar(select(func.count()).select_from(table)) or 0
            for name, table in tables_of(connection).items()}  # fmt: skip


def require_whole(connection: Connection) -> None:
    """Every reference leads somewhere. PostgreSQL would not have let it be otherwise."""
    if connection.dialect.name == "sqlite":
        assert connection.execute(text("PRAGMA foreign_key_check")).all() == []


def differences(connection: Connection) -> list[Any]:
    """Between the database and the models. SQLAlchemy reads neither a descending index column nor the action of a
    foreign key that came with its column back from SQLite; those are looked up another way."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    found = list(compare_metadata(context, Base.metadata))
    if connection.dialect.name == "sqlite":
        keys = connection.execute(text("PRAGMA foreign_key_list(job)")).mappings().all()
        assert ("parent_id", "job", "CASCADE") in {(key["from"], key["table"], key["on_delete"]) for key in keys}
        index = connection.scalar(text("SELECT sql FROM sqlite_master WHERE name = 'ix_pair_begun'"))
        assert "n_leased DESC" in str(index)
        found = [one for one in found if not (one[0].endswith("_fk") and "parent_id" in one[1].columns)
                 and getattr(one[1], "name", None) != "ix_pair_begun"]  # fmt: skip
    return found


@pytest.mark.parametrize(
    "empty_database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
def test_rows_of_every_version_survive_every_migration_up_and_down(empty_database: Database) -> None:
    with empty_database.engine.connect() as connection:
        for revision in REVISIONS:  # every table gets a row at every revision: each is carried on from there to the end
            before = rows_of(connection)
            go(connection, revision)
            after = rows_of(connection)
            assert {name: n for name, n in after.items() if name in before} == {
                name: n for name, n in before.items() if name in after
            }, revision
            add_a_row_to_every_table(connection)
            require_whole(connection)
            connection.commit()
        assert differences(connection) == []

        for undone, revision in zip(REVISIONS[:0:-1], REVISIONS[-2::-1], strict=True):
            before = rows_of(connection)
            go(connection, revision, command.downgrade)
            after = rows_of(connection)
            gone = {name for name, n in after.items() if n < before[name]}
            assert gone <= MAY_GO.get(undone, set()), f"undoing {undone} loses rows of {gone}"
            assert after.keys() <= before.keys()
            require_whole(connection)
            connection.commit()
        left = rows_of(connection)
        assert min(left.values()) > 0
        go(connection, "head")
        connection.commit()
        assert differences(connection) == []
        assert {name: n for name, n in rows_of(connection).items() if name in left} == left
