"""Rows in a spelling that every database shares, so that a copy of one can be loaded into another.

A table is described by its columns and their kinds (`{"id": "uuid", "created_at": "time", ...}`), which is all that
loading needs: a copy made by an older version loads into the tables of that version, and is then migrated.
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Uuid,
    bindparam,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from app.db.base import Base, UtcDateTime
from app.domain.errors import CorruptDataError

_ROWS_AT_ONCE = 500
# an absent JSON value is SQL's NULL on both sides
_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_TYPES: dict[str, Callable[[], TypeEngine[Any]]] = {
    "uuid": Uuid,
    "time": UtcDateTime,
    "json": lambda: _JSON,
    "bytes": LargeBinary,
    "bool": Boolean,
    "int": BigInteger,
    "float": Float,
    "text": String,
}
_ENCODE: dict[str, Callable[[Any], Any]] = {
    "uuid": str,
    "time": datetime.isoformat,
    "bytes": lambda value: base64.b64encode(value).decode(),
}
_DECODE: dict[str, Callable[[Any], Any]] = {
    "uuid": UUID,
    "time": datetime.fromisoformat,
    "bytes": lambda value: base64.b64decode(value, validate=True),
}

KINDS = frozenset(_TYPES)
Kinds = Mapping[str, str]
"""Column names and the kinds of their values."""


def current_tables() -> dict[str, dict[str, str]]:
    """The columns of every table of this version, parents before the tables that refer to them."""
    return {
        table.name: {column.name: _kind(column.type) for column in table.columns}
        for table in Base.metadata.sorted_tables
    }


def revision(connection: Connection) -> str | None:
    """The migration that the database is at; None where it has never been migrated."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def use_one_snapshot(connection: Connection) -> None:
    """Let every read of the coming transaction see the same moment; to be called before the first.

    SQLite's read transactions do so anyway (WAL).
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def dump_rows(connection: Connection, table: str, kinds: Kinds) -> Iterator[bytes]:
    """Every row of a table as one line of JSON, streamed."""
    rows = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(select(_portable(table, kinds)))
    encoders = [_ENCODE.get(kind, _same) for kind in kinds.values()]
    for row in rows:
        values = [None if value is None else encode(value) for encode, value in zip(encoders, row, strict=True)]
        yield json.dumps(values, separators=(",", ":")).encode() + b"\n"


def load_rows(connection: Connection, table: str, kinds: Kinds, lines: Iterable[bytes]) -> int:
    """Insert what `dump_rows` wrote. Returns how many rows.

    A row that refers to another of its own table is first inserted without that reference, since the order of rows
    promises nothing.

    Raises:
        CorruptDataError: a line is not a row of this table.
    """
    target = _portable(table, kinds)
    decoders = [_DECODE.get(kind, _same) for kind in kinds.values()]
    own = [name for name in _references_to_itself(connection, table) if name in kinds]
    later: list[dict[str, Any]] = []
    n = 0
    remaining = iter(lines)
    while chunk := [_decode(table, list(kinds), decoders, line) for line in islice(remaining, _ROWS_AT_ONCE)]:
        for row in chunk:
            if any(row[name] is not None for name in own):
                later.append({"own_id": row["id"]} | {f"own_{name}": row[name] for name in own})
                row.update(dict.fromkeys(own))
        connection.execute(target.insert(), chunk)
        n += len(chunk)
    if later:
        link = target.update().where(target.c.id == bindparam("own_id"))
        connection.execute(link.values({name: bindparam(f"own_{name}") for name in own}), later)
    return n


def is_empty(connection: Connection) -> bool:
    """Whether the database holds no row that a restore would overwrite."""
    names = set(inspect(connection).get_table_names())
    return all(
        connection.execute(select(table).limit(1)).first() is None
        for table in Base.metadata.sorted_tables
        if table.name in names
    )


def drop_everything(connection: Connection) -> None:
    """Drop every table, the migrations' own one too."""
    found = MetaData()
    found.reflect(connection)
    found.drop_all(connection)


def _portable(table: str, kinds: Kinds) -> Table:
    return Table(table, MetaData(), *(Column(name, _TYPES[kind]()) for name, kind in kinds.items()))


def _references_to_itself(connection: Connection, table: str) -> list[str]:
    keys = inspect(connection).get_foreign_keys(table)
    return [name for key in keys if key["referred_table"] == table for name in key["constrained_columns"]]


def _decode(table: str, names: list[str], decoders: list[Callable[[Any], Any]], line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
        decoded = [None if value is None else decode(value) for decode, value in zip(decoders, values, strict=True)]
    except (ValueError, TypeError) as error:
        raise CorruptDataError(
            f"The copy of the table {table!r} holds a line that is no row of it: {error}."
        ) from error
    return dict(zip(names, decoded, strict=True))


def _kind(type_: TypeEngine[Any]) -> str:
    for kind, classes in {
        "uuid": Uuid,
        "time": UtcDateTime,
        "json": JSON,
        "bytes": LargeBinary,
        "bool": Boolean,
        "int": Integer,
        "float": Float,
        "text": String,  # Enum and Text too
    }.items():
        if isinstance(type_, classes):
            return kind
    raise TypeError(f"backups do not know the column type {type_!r} yet; add it to app/db/queries/portable_rows.py")


def _same(value: Any) -> Any:
    return value
