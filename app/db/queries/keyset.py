"""Keyset pages, newest first: cost does not grow with depth, and rows that arrive meanwhile move nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

T = TypeVar("T")
U = TypeVar("U")


class Position(NamedTuple):
    """Where a page ended."""

    created_at: datetime
    id: UUID


@dataclass(frozen=True)
class Slice(Generic[T]):
    """One page; `end` is where the next one begins, None on the last."""

    items: list[T]
    end: Position | None

    def map(self, view: Callable[[T], U]) -> "Slice[U]":
        return Slice([view(item) for item in self.items], self.end)


def newest_first(
    session: Session,
    statement: Select[T],
    key: tuple[InstrumentedAttribute[datetime], InstrumentedAttribute[UUID]],
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
