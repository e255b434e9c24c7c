"""Keyset pages: `{"items": [...], "next_cursor": string | null}`, newest first, with an opaque cursor."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel

from app.domain.errors import InvalidSpecError

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="Items per page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None


def encode_cursor(created_at: datetime, id: UUID) -> str:
    return base64.urlsafe_b64encode(f"{created_at.isoformat()}|{id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> tuple[datetime, UUID] | None:
    """The (created_at, id) after which the page begins.

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
        return after, UUID(id)
    except (ValueError, binascii.Error) as error:
        message = "Not a cursor of this list; start again without one."
        raise InvalidSpecError(message, [{"field": "cursor", "message": message}]) from error
