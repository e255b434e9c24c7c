"""SQL of users, tokens and sessions."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.db.models import ApiToken, AuditEntry, Guest, LoginToken, User, WebSession
from app.db.queries.keyset import Position, Slice, newest_first


def user_by_name(session: Session, name: str) -> User | None:
    return session.scalar(select(User).where(User.name == name))


def may_ever_sign_in(session: Session, user: User) -> bool:
    """Whether there is or was a way in for this user: a password, a token, a link, a session, an invitation."""
    ways = (ApiToken, LoginToken, WebSession, Guest)
    return user.password_hash is not None or any(
        session.scalar(select(way.user_id).where(way.user_id == user.id).limit(1)) is not None for way in ways
    )


def live_token(session: Session, token_hash: str, now: datetime) -> tuple[ApiToken, User, bool] | None:
    """The token with this hash, its user and whether that is a guest; not if it has ended or the user is disabled."""
    row = session.execute(
        select(ApiToken, User, Guest.user_id.is_not(None))
        .join(User, User.id == ApiToken.user_id)
        .outerjoin(Guest, Guest.user_id == User.id)
        .where(ApiToken.token_hash == token_hash, ApiToken.revoked_at.is_(None), User.disabled_at.is_(None))
    ).one_or_none()
    if row is None or (row[0].expires_at is not None and row[0].expires_at <= now):
        return None
    return row[0], row[1], row[2]


def note_token_use(session: Session, token_id: UUID, now: datetime) -> None:
    session.execute(update(ApiToken).where(ApiToken.id == token_id).values(last_used_at=now))


def live_web_session(session: Session, token_hash: str, now: datetime) -> tuple[User, bool] | None:
    """The user of a browser session, and whether that is a guest."""
    row = session.execute(
        select(User, Guest.user_id.is_not(None))
        .join(WebSession, WebSession.user_id == User.id)
        .outerjoin(Guest, Guest.user_id == User.id)
        .where(WebSession.token_hash == token_hash, WebSession.expires_at > now, User.disabled_at.is_(None))
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def unused_login_token(session: Session, token_hash: str, now: datetime) -> LoginToken | None:
    return session.scalar(
        select(LoginToken)
        .where(LoginToken.token_hash == token_hash, LoginToken.used_at.is_(None), LoginToken.expires_at > now)
        .with_for_update()
    )


def end_web_session(session: Session, token_hash: str) -> None:
    row = session.get(WebSession, token_hash)
    if row is not None:
        session.delete(row)


def end_web_sessions_of(session: Session, user_id: UUID) -> None:
    session.execute(delete(WebSession).where(WebSession.user_id == user_id))


def users(session: Session, *, after: Position | None, limit: int) -> Slice[User]:
    return newest_first(session, select(User), (User.created_at, User.id), after=after, limit=limit)


def user_names(session: Session, ids: Collection[UUID]) -> dict[UUID, str]:
    return {user.id: user.name for user in session.scalars(select(User).where(User.id.in_(ids)))}


def tokens(session: Session, *, user_id: UUID | None, after: Position | None, limit: int) -> Slice[ApiToken]:
    statement = select(ApiToken)
    if user_id is not None:
        statement = statement.where(ApiToken.user_id == user_id)
    return newest_first(session, statement, (ApiToken.created_at, ApiToken.id), after=after, limit=limit)


def token_by_hash(session: Session, token_hash: str) -> ApiToken | None:
    return session.scalar(select(ApiToken).where(ApiToken.token_hash == token_hash))


def count_audited(session: Session, action: str, target: str, since: datetime) -> int:
    """How often something happened to `target` since a moment."""
    return (
        session.scalar(
            select(func.count())
            .select_from(AuditEntry)
            .where(AuditEntry.created_at >= since, AuditEntry.action == action, AuditEntry.target == target)
        )
        or 0
    )


def user(session: Session, user_id: UUID) -> User | None:
    return session.get(User, user_id)
