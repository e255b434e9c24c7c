"""SQL of idempotency keys."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.models import IdempotencyKey


def forget_older_than(session: Session, user_id: UUID, moment: datetime) -> None:
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.user_id == user_id, IdempotencyKey.created_at < moment))


def claim_key(session: Session, user_id: UUID, key: str, *, request_hash: str, now: datetime) -> IdempotencyKey | None:
    """Take the key in this transaction; None where an earlier call has it.

    While another transaction is taking the same key, this waits until that one has committed or rolled back.
    """
    row = IdempotencyKey(
        user_id=user_id, key=key, request_hash=request_hash, status=0, headers={}, body=b"", created_at=now
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return None
    return row


def kept_answer(session: Session, user_id: UUID, key: str) -> IdempotencyKey:
    return session.get_one(IdempotencyKey, (user_id, key), populate_existing=True)
