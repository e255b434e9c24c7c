"""Who someone is: users, bearer tokens, browser sessions, one-time login links."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import count
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.orm import Session

from app.db.models import ApiToken, LoginToken, User, WebSession
from app.db.queries import accounts as queries
from app.domain.enums import Role
from app.domain.errors import ForbiddenError, InvalidSpecError, NotAuthenticatedError, RateLimitedError
from app.services import audit

TOKEN_PREFIX = "tm_"  # noqa: S105
_NOTE_USE_EVERY = timedelta(hours=1)
_PASSWORD_LENGTH = (10, 200)
_LOGIN_FAILED = "login.failed"
_MAX_FAILURES = 10
_FAILURES_COUNT_FOR = timedelta(minutes=15)

_hasher = PasswordHasher()  # Argon2id with the library's current defaults (RFC 9106, low memory)


@lru_cache(maxsize=1)
def _unknown_hash() -> str:
    """What a password is checked against where there is none to check against."""
    return _hasher.hash(secrets.token_urlsafe(32))


@dataclass(frozen=True)
class Principal:
    """Who is calling, and what they may do: the lesser of the user's role and the token's."""

    user_id: UUID
    name: str
    role: Role
    token_id: UUID | None = None
    """The API token that was shown; None for a browser session."""
    use_is_news: bool = False
    """Whether the token's last noted use is long enough ago to be noted again."""
    guest: bool = False
    """Whether they came by an invitation: they may rate in the campaigns that they belong to, and nothing else."""

    def require(self, needed: Role) -> None:
        if not self.role.covers(needed):
            raise ForbiddenError(f"This needs the role {needed.value}; you are signed in as {self.role.value}.")


def hash_token(token: str) -> str:
    """SHA-256 suffices: tokens carry 256 random bits, there is nothing to guess."""
    return hashlib.sha256(token.encode()).hexdigest()


def ensure_user(session: Session, name: str, role: Role, now: datetime) -> User:
    """The user of this name, made if there is none yet."""
    user = queries.user_by_name(session, name)
    if user is None:
        user = User(name=name, role=role, created_at=now)
        session.add(user)
        session.flush()
    return user


def imported_rater(session: Session, pseudonym: str, now: datetime) -> User:
    """The user behind votes of this pseudonym from elsewhere: a rater that nobody can sign in as.

    A person who happens to have such a name keeps their votes apart: the imported one gets a number.
    """
    for number in count(1):
        name = f"imported {pseudonym}" if number == 1 else f"imported {pseudonym} ({number})"
        user = queries.user_by_name(session, name)
        if user is None:
            return ensure_user(session, name, Role.RATER, now)
        if user.role is Role.RATER and not queries.may_ever_sign_in(session, user):
            return user
    raise AssertionError("numbers do not end")


def create_token(
    session: Session, user: User, *, name: str, role: Role, now: datetime, expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """A new bearer token of at most the user's role; the secret half of the result is shown once and never stored."""
    if not user.role.covers(role):
        raise ForbiddenError(f"{user.name} is a {user.role.value}; a token cannot carry the role {role.value}.")
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        user_id=user.id, name=name, role=role, token_hash=hash_token(secret), created_at=now, expires_at=expires_at
    )
    session.add(token)
    session.flush()
    return token, secret


def authenticate_token(session: Session, secret: str, now: datetime) -> Principal:
    """Raises NotAuthenticatedError for a token that is unknown, revoked or expired."""
    found = queries.live_token(session, hash_token(secret), now)
    if found is None:
        raise NotAuthenticatedError("This token is unknown, revoked or expired; ask an admin for a new one.")
    token, user, guest = found
    return Principal(
        user_id=user.id,
        name=user.name,
        role=token.role if user.role.covers(token.role) else user.role,
        token_id=token.id,
        use_is_news=token.last_used_at is None or token.last_used_at <= now - _NOTE_USE_EVERY,
        guest=guest,
    )


def note_token_use(session: Session, token_id: UUID, now: datetime) -> None:
    """Remember when a token was last used, to the hour: an admin finds the forgotten ones by it."""
    queries.note_token_use(session, token_id, now)


def authenticate_session(session: Session, secret: str, now: datetime) -> Principal | None:
    found = queries.live_web_session(session, hash_token(secret), now)
    if found is None:
        return None
    user, guest = found
    return Principal(user_id=user.id, name=user.name, role=user.role, guest=guest)


def revoke_token(session: Session, secret: str, now: datetime) -> None:
    """End the token with this secret; an unknown or ended one changes nothing."""
    token = queries.token_by_hash(session, hash_token(secret))
    if token is not None and token.revoked_at is None:
        token.revoked_at = now


def set_password(session: Session, user: User, password: str) -> None:
    """Let a user sign in by name and password; every browser session of theirs ends.

    Raises:
        InvalidSpecError: it is shorter than 10 or longer than 200 characters.
    """
    if not _PASSWORD_LENGTH[0] <= len(password) <= _PASSWORD_LENGTH[1]:
        message = f"Use {_PASSWORD_LENGTH[0]} to {_PASSWORD_LENGTH[1]} characters; a sentence is a good password."
        raise InvalidSpecError(message, [{"field": "password", "message": message}])
    user.password_hash = _hasher.hash(password)
    queries.end_web_sessions_of(session, user.id)


def check_password(session: Session, name: str, password: str, now: datetime) -> User | None:
    """The user of this name and password; None where they do not match, which costs the same time for any name.

    A failure is noted in this transaction, so the caller must let it commit.

    Raises:
        RateLimitedError: there were too many failures for this name in the last quarter of an hour.
    """
    target = name[:200]
    if queries.count_audited(session, _LOGIN_FAILED, target, now - _FAILURES_COUNT_FOR) >= _MAX_FAILURES:
        raise RateLimitedError("Too many wrong passwords for this name; try again in 15 minutes or use a sign-in link.")
    user = queries.user_by_name(session, name)
    known = user is not None and user.password_hash is not None and user.disabled_at is None
    try:
        _hasher.verify(user.password_hash if user and user.password_hash else _unknown_hash(), password)
    except (VerificationError, InvalidHashError):
        known = False
    if known:
        return user
    audit.record(session, None, _LOGIN_FAILED, target, now)
    return None


def create_login_token(session: Session, user: User, now: datetime, *, valid_for: timedelta) -> str:
    """A secret for a link that signs one browser in, once."""
    secret = secrets.token_urlsafe(32)
    session.add(LoginToken(token_hash=hash_token(secret), user_id=user.id, created_at=now, expires_at=now + valid_for))
    return secret


def redeem_login_token(session: Session, secret: str, now: datetime, *, session_hours: int) -> str:
    """Use up a login link. Returns the new browser session's secret (the cookie)."""
    login = queries.unused_login_token(session, hash_token(secret), now)
    if login is None:
        raise NotAuthenticatedError("This sign-in link was used before or has expired; ask for a new one.")
    login.used_at = now
    return start_web_session(session, login.user_id, now, session_hours=session_hours)


def start_web_session(session: Session, user_id: UUID, now: datetime, *, session_hours: int) -> str:
    secret = secrets.token_urlsafe(32)
    audit.record(session, user_id, "session.start", user_id, now)
    session.add(
        WebSession(
            token_hash=hash_token(secret),
            user_id=user_id,
            created_at=now,
            expires_at=now + timedelta(hours=session_hours),
        )
    )
    return secret


def end_web_session(session: Session, secret: str) -> None:
    queries.end_web_session(session, hash_token(secret))
