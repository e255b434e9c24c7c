"""Administration of people and programs: who there is, their tokens, who may no longer come in."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.models import ApiToken, User
from app.db.queries import accounts as queries
from app.db.queries.keyset import Position, Slice
from app.domain.documented import Documented
from app.domain.enums import Role
from app.domain.errors import ConflictError, InvalidSpecError, NotFoundError
from app.services import accounts, audit
from app.services.accounts import Principal

_LINK_VALID_FOR = timedelta(days=1)


class UserView(Documented):
    id: UUID
    name: str
    role: Role
    has_password: bool
    """Whether they can sign in at /login."""
    created_at: datetime
    disabled_at: datetime | None


class TokenView(Documented):
    """A bearer token without its secret."""

    id: UUID
    user_id: UUID
    user_name: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the hour."""


class NewTokenView(TokenView):
    token: str
    """The secret. It is shown this once and not stored."""


def list_users(session: Session, *, after: Position | None = None, limit: int = 50) -> Slice[UserView]:
    """Newest first, disabled ones included."""
    return queries.users(session, after=after, limit=limit).map(_view_user)


def get_user(session: Session, user_id: UUID) -> UserView:
    """Raises NotFoundError."""
    return _view_user(_require_user(session, user_id))


def create_user(
    session: Session, who: Principal, *, name: str, role: Role, password: str | None, now: datetime
) -> UserView:
    """Make a user.

    Raises:
        ConflictError: the name is taken.
        InvalidSpecError: the password is too short or too long.
    """
    user = User(name=name, role=role, created_at=now)
    if password is not None:
        accounts.set_password(session, user, password)
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError as error:
        raise ConflictError(f"There is a user named {name!r} already; choose another name.") from error
    audit.record(session, who.user_id, "user.create", user.id, now, name=name, role=role.value)
    return _view_user(user)


def create_login_link(session: Session, who: Principal, user_id: UUID, now: datetime) -> str:
    """The secret of a link that signs one browser in as this user, once, within a day.

    Raises:
        NotFoundError: there is no such user.
        ConflictError: the user is disabled.
    """
    user = _require_user(session, user_id)
    if user.disabled_at is not None:
        raise ConflictError(f"{user.name} is disabled and cannot sign in.")
    audit.record(session, who.user_id, "user.login_link", user_id, now, name=user.name)
    return accounts.create_login_token(session, user, now, valid_for=_LINK_VALID_FOR)


def disable_user(session: Session, who: Principal, user_id: UUID, now: datetime) -> None:
    """Shut someone out: their tokens and browser sessions end now. Their votes stay; doing it again changes nothing.

    Raises:
        NotFoundError: there is no such user.
        ConflictError: one would shut oneself out.
    """
    user = _require_user(session, user_id)
    if user.id == who.user_id:
        raise ConflictError("You cannot disable yourself; another admin can.")
    if user.disabled_at is not None:
        return
    user.disabled_at = now
    queries.end_web_sessions_of(session, user_id)
    audit.record(session, who.user_id, "user.disable", user_id, now, name=user.name)


def list_tokens(
    session: Session, *, user_id: UUID | None = None, after: Position | None = None, limit: int = 50
) -> Slice[TokenView]:
    """Newest first, revoked and expired ones included; of one user or of all."""
    found = queries.tokens(session, user_id=user_id, after=after, limit=limit)
    names = queries.user_names(session, {row.user_id for row in found.items})
    return found.map(lambda row: _view_token(row, names[row.user_id]))


def create_token(
    session: Session,
    who: Principal,
    *,
    user_id: UUID | None,
    name: str,
    role: Role | None,
    expires_at: datetime | None,
    now: datetime,
) -> NewTokenView:
    """A new token for someone (oneself by default) with their role or a lower one.

    Raises:
        InvalidSpecError: there is no such user or they are disabled; the expiry is in the past.
        ForbiddenError: the role is above the user's.
    """
    user = queries.user(session, user_id or who.user_id)
    if user is None or user.disabled_at is not None:
        message = f"There is no active user {user_id}; GET /api/v1/users lists them."
        raise InvalidSpecError(message, [{"field": "user_id", "message": message}])
    if expires_at is not None and expires_at <= now:
        message = "This moment has passed; choose a later one, or leave it out for a token that does not expire."
        raise InvalidSpecError(message, [{"field": "expires_at", "message": message}])
    row, secret = accounts.create_token(
        session, user, name=name, role=role or user.role, now=now, expires_at=expires_at
    )
    audit.record(session, who.user_id, "token.create", row.id, now, name=name, role=row.role.value, user=user.name)
    return NewTokenView(**_view_token(row, user.name).model_dump(), token=secret)


def revoke_token(session: Session, who: Principal, token_id: UUID, now: datetime) -> None:
    """End a token now; doing it again changes nothing.

    Raises:
        NotFoundError: there is no such token.
    """
    row = session.get(ApiToken, token_id)
    if row is None:
        raise NotFoundError(f"There is no token {token_id}; GET /api/v1/tokens lists them.")
    if row.revoked_at is None:
        row.revoked_at = now
        audit.record(session, who.user_id, "token.revoke", token_id, now, name=row.name)


def _require_user(session: Session, user_id: UUID) -> User:
    user = queries.user(session, user_id)
    if user is None:
        raise NotFoundError(f"There is no user {user_id}; GET /api/v1/users lists them.")
    return user


def _view_user(row: User) -> UserView:
    return UserView(
        id=row.id,
        name=row.name,
        role=row.role,
        has_password=row.password_hash is not None,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


def _view_token(row: ApiToken, user_name: str) -> TokenView:
    return TokenView(
        id=row.id,
        user_id=row.user_id,
        user_name=user_name,
        name=row.name,
        role=row.role,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
