"""Keyset pages: `{"items": [...], "next_cursor": string | null}`, newest first, with an opaque cursor."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Generic, Self, TypeVar
from uuid import UUID

from fastapi import Depends, Query
from pydantic import BaseModel

from app.db.queries.keyset import Position, Slice
from app.domain.errors import InvalidSpecError

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="Items per page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None

    @classmethod
    def of(cls, found: Slice[T]) -> Self:
        return cls(items=found.items, next_cursor=next_cursor_of(found))


def next_cursor_of(found: Slice[T]) -> str | None:
    """The cursor of the page after this one; None on the last."""
    return None if found.end is None else encode_cursor(*found.end)


def encode_cursor(created_at: datetime, id: UUID) -> str:
    return base64.urlsafe_b64encode(f"{created_at.isoformat()}|{id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> Position | None:
    """The position after which the page begins.

    Raises:
        InvalidSpecError: the cursor was not made by `encode_cursor`.
    """
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        moment, _, id = text.partition("|")
        after = datetime.fromisoformat(moment)
        if after.tzinfo is None:
            raise ValueError("naive time")
        return Position(after, UUID(id))
    except (ValueError, binascii.Error) as error:
        message = "Not a cursor of this list; start again without one."
        raise InvalidSpecError(message, [{"field": "cursor", "message": message}]) from error


def _position(cursor: Cursor = None) -> Position | None:
    return decode_cursor(cursor)


After = Annotated[Position | None, Depends(_position)]
"""The decoded `cursor` of a list call."""
