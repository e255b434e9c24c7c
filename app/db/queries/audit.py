"""SQL of the audit log."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import AuditEntry
from app.db.queries.keyset import Position, Slice, newest_first


def entries(session: Session, *, after: Position | None, limit: int) -> Slice[AuditEntry]:
    key = (AuditEntry.created_at, AuditEntry.id)
    return newest_first(session, select(AuditEntry), key, after=after, limit=limit)
