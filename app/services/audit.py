"""Who did what to which object, written in the transaction of the deed: one is kept exactly when the other is."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import AuditEntry
from app.db.queries import accounts as account_queries
from app.db.queries import audit as queries
from app.db.queries.keyset import Position, Slice
from app.domain.documented import Documented


class AuditView(Documented):
    id: UUID
    user_id: UUID | None
    """None where nobody was signed in, or the user is gone."""
    user_name: str | None
    action: str
    """What was done, for example `job.cancel`."""
    target: str
    """What it was done to: mostly an id."""
    detail: dict[str, str]
    created_at: datetime


def record(
    session: Session, user_id: UUID | None, action: str, target: UUID | str, now: datetime, **detail: str
) -> None:
    """Note a deed. `detail` never holds a secret."""
    session.add(AuditEntry(user_id=user_id, action=action, target=str(target), detail=detail, created_at=now))


def list_entries(session: Session, *, after: Position | None = None, limit: int = 50) -> Slice[AuditView]:
    """Newest first."""
    found = queries.entries(session, after=after, limit=limit)
    names = account_queries.user_names(session, {row.user_id for row in found.items if row.user_id is not None})
    return found.map(
        lambda row: AuditView(
            id=row.id,
            user_id=row.user_id,
            user_name=names.get(row.user_id) if row.user_id is not None else None,
            action=row.action,
            target=row.target,
            detail={key: str(value) for key, value in row.detail.items()},
            created_at=row.created_at,
        )
    )
