"""Statements over many rows: in chunks that a database accepts, and INSERT ... ON CONFLICT on both of ours."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar, cast

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.base import Base

_ROWS_A_STATEMENT = 500  # SQLite allows 32,766 bound values in one statement

T = TypeVar("T")


def in_chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """`items` in lists that are short enough for one statement."""
    remaining = iter(items)
    while chunk := list(islice(remaining, _ROWS_A_STATEMENT)):
        yield chunk


def insert_or_ignore(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert `rows`, all of the same columns, leaving alone those whose key exists already."""
    if rows:  # as parameters of one statement, which is compiled once; a list of values would be compiled each time
        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        session.flush()  # what the rows refer to may be pending
        session.execute(insert(cast(Table, table.__table__)).on_conflict_do_nothing(), [dict(row) for row in rows])


def insert_or_update(
    session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]], *, unless_smaller: str | None = None
) -> None:
    """Insert `rows`; a row whose primary key exists replaces the old one's other columns.

    `unless_smaller` names a column: the old row stays where its value there is larger than the new one's.
    """
    key = [column.name for column in table.__table__.primary_key]
    for chunk in in_chunks(rows):
        statement = _insert(session, table).values([dict(row) for row in chunk])
        changed = {name: statement.excluded[name] for name in chunk[0] if name not in key}
        where = None
        if unless_smaller is not None:
            where = statement.excluded[unless_smaller] >= table.__table__.columns[unless_smaller]
        session.execute(statement.on_conflict_do_update(index_elements=key, set_=changed, where=where))


def _insert(session: Session, table: type[Base]) -> "sqlite.Insert | postgresql.Insert":
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
