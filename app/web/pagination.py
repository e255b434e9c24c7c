"""Keyset pages: `{"items": [...], "next_cursor": string | null}`, newest first, with an opaque cursor."""

import base64
import binascii
import math
from datetime import datetime
from typing import Annotated, Generic, Self, TypeVar
from uuid import UUID

from fastapi import Depends, Query
from pydantic import BaseModel

from app.db.queries.keyset import Position, Slice, ValuePosition
from app.domain.errors import InvalidSpecError

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="Items per page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None

    @classmethod
    def of(cls, found: Slice[T, Position] | Slice[T, ValuePosition]) -> Self:
        return cls(items=found.items, next_cursor=next_cursor_of(found))


def next_cursor_of(found: Slice[T, Position] | Slice[T, ValuePosition]) -> str | None:
    """The cursor of the page after this one; None on the last."""
    if isinstance(found.end, ValuePosition):
        return encode_value_cursor(*found.end)
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


def clean(text: str | None) -> str | None:
    """What somebody looks for, without the zero bytes that PostgreSQL cannot hold; None where nothing is left."""
    return (text or "").replace("\x00", "").strip() or None


def _position(cursor: Cursor = None) -> Position | None:
    return decode_cursor(cursor)


def encode_value_cursor(value: float, id: UUID) -> str:
    return base64.urlsafe_b64encode(f"value|{value!r}|{id}".encode()).decode().rstrip("=")


def decode_value_cursor(cursor: str | None) -> ValuePosition | None:
    """As `decode_cursor`, in a list that is ordered by a number."""
    if cursor is None:
        return None
    try:
        kind, value, id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split("|")
        if kind != "value" or not math.isfinite(float(value)):
            raise ValueError("another list's cursor")
        return ValuePosition(float(value), UUID(id))
    except (ValueError, binascii.Error) as error:
        message = "Not a cursor of this list; start again without one."
        raise InvalidSpecError(message, [{"field": "cursor", "message": message}]) from error


After = Annotated[Position | None, Depends(_position)]
"""The decoded `cursor` of a list call."""
