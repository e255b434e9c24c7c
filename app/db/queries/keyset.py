"""Keyset pages, newest first or by a value: cost does not grow with depth, and rows that come later move nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.elements import KeyedColumnElement
from typing_extensions import TypeVar

T = TypeVar("T")
U = TypeVar("U")


KeyColumn: TypeAlias = InstrumentedAttribute[T] | KeyedColumnElement[T]
"""A table's column, or that of a subquery under the same name."""


class Position(NamedTuple):
    """Where a page ended."""

    created_at: datetime
    id: UUID


class ValuePosition(NamedTuple):
    """Where a page that is ordered by a number ended."""

    value: float
    id: UUID


End = TypeVar("End", bound="Position | ValuePosition", default=Position)


@dataclass(frozen=True)
class Slice(Generic[T, End]):
    """One page; `end` is where the next one begins, None on the last."""

    items: list[T]
    end: End | None

    def map(self, view: Callable[[T], U]) -> "Slice[U, End]":
        return Slice([view(item) for item in self.items], self.end)


def newest_first(
    session: Session,
    statement: Select[T],
    key: tuple[KeyColumn[datetime], KeyColumn[UUID]],
    *,
    after: Position | None,
    limit: int,
) -> Slice[T]:
    """The next `limit` rows of `statement` after a position; `key` is the table's (created_at, id)."""
    created_at, id = key
    if after is not None:
        statement = statement.where(tuple_(created_at, id) < tuple_(*after, types=[created_at.type, id.type]))
    rows = list(session.scalars(statement.order_by(created_at.desc(), id.desc()).limit(limit + 1)))
    if len(rows) <= limit:
        return Slice(rows, None)
    rows.pop()
    return Slice(rows, Position(getattr(rows[-1], created_at.key), getattr(rows[-1], id.key)))


def by_value(
    session: Session,
    statement: Select[T, float],
    key: tuple[KeyColumn[float], KeyColumn[UUID]],
    *,
    highest: bool,
    after: ValuePosition | None,
    limit: int,
) -> Slice[T, ValuePosition]:
    """The next `limit` of (row, value) after a position; `key` is (value, id) of the table that holds the values."""
    value, id = key
    place = tuple_(value, id)
    if after is not None:
        end = tuple_(*after, types=[value.type, id.type])
        statement = statement.where(place < end if highest else place > end)
    order = (value.desc(), id.desc()) if highest else (value.asc(), id.asc())
    rows = session.execute(statement.add_columns(id).order_by(*order).limit(limit + 1)).all()
    end_of_page = ValuePosition(rows[limit - 1][1], rows[limit - 1][2]) if len(rows) > limit else None
    return Slice([row[0] for row in rows[:limit]], end_of_page)
